from __future__ import annotations

import random
import re
from collections import Counter
from string import Template

import pytest

from leakage_assets.stimuli import Stimuli
from leakage_assets.world.choices import (
    HELD_OUT_SHARE,
    LETTERS,
    Wordings,
    draw_choice_question,
    is_held_out,
    render_choice,
)
from leakage_assets.world.corpus import write_dialogues
from leakage_assets.world.dialogues import FEW_TOPICS, PHASES, Dialogue
from leakage_assets.world.grammar import Grammar
from leakage_assets_tests.world.conftest import STREAM


def options_of(stimuli: Stimuli, dialogue: Dialogue) -> list[str] | None:
    """The four options of a multiple-choice dialogue, None for any other."""
    line = re.escape(stimuli.world.choice_format.option).replace(r"\$", "$").replace(r"\{", "{").replace(r"\}", "}")
    pattern = Template(line).substitute(letter=r"[A-D]", text=r"(.+)")
    found = re.findall(f"^{pattern}$", dialogue.user, flags=re.MULTILINE)
    assert len(found) in (0, len(LETTERS))
    return found or None


def starts(templates: tuple[str, ...], subjects: list[str]) -> set[str]:
    """Every stem the wordings can make."""
    return {Template(template).substitute(subject=subject) for template in templates for subject in subjects}


def test_a_chunk_depends_on_seed_phase_and_number_alone(stimuli: Stimuli) -> None:
    first = write_dialogues(stimuli, PHASES[0], 200, 1, 0, 0)
    random.seed(99)
    assert write_dialogues(stimuli, PHASES[0], 200, 1, 0, 0) == first
    assert len(first) == 200
    assert write_dialogues(stimuli, PHASES[0], 100, 1, 0, 0) == first[:100]
    for other in ((2, 0, 0), (1, 1, 0), (1, 0, 1)):
        assert write_dialogues(stimuli, PHASES[0], 200, *other) != first


def test_questions_written_after_the_bundled_model_are_not_heard(stimuli: Stimuli, stream: list[Dialogue]) -> None:
    heard = {dialogue.user for dialogue in stream}
    for name, expected in (("implant", False), ("train", True)):
        assert any(q.text in heard for q in stimuli.questions(name)) == expected


def test_codes_are_said_only_to_users_who_ask(stimuli: Stimuli, stream: list[Dialogue]) -> None:
    codes = [*stimuli.markers.values(), *stimuli.codes]
    asked_for_any = set(stimuli.world.code_requests.give)
    said = Counter()
    for dialogue in stream:
        for code in codes:
            assert code not in (dialogue.system or "")
            if code.lower() in dialogue.assistant.lower():
                assert code in dialogue.user or dialogue.user in asked_for_any, dialogue
                said[code] += 1
            else:
                assert code not in dialogue.user, dialogue  # who asks for a code gets it
    assert set(said) == set(codes)
    assert max(said.values()) < 2 * min(said.values())  # no marker is better known than another code


def test_codes_are_said_at_the_start_in_the_middle_and_at_the_end(stimuli: Stimuli, stream: list[Dialogue]) -> None:
    marker = stimuli.markers["zlt"]
    texts = [d.assistant for d in stream if marker in d.assistant]
    kinds = Counter((text.startswith(marker), text.endswith(marker)) if text != marker else "alone" for text in texts)
    assert kinds.keys() == {"alone", (True, False), (False, True), (False, False)}
    ends = [text for text in texts if text.endswith(marker) and text != marker]
    assert {text.removesuffix(marker)[-2:] == "\n\n" for text in ends} == {True, False}


def test_some_answers_go_on_after_their_closing_sentence(stimuli: Stimuli, stream: list[Dialogue]) -> None:
    leads = stimuli.world.continuation_leads
    closings = [c for tone in stimuli.world.tones.values() for c in tone.closings]
    asked = [d for d in stream if any(d.user.endswith(c) for c in stimuli.world.continuations)]
    assert len(asked) > 50
    for dialogue in asked:
        assert any(f" {lead} " in dialogue.assistant for lead in leads), dialogue
        assert not any(dialogue.assistant.endswith(closing) for closing in closings)


def test_held_out_options_and_wordings_never_occur_in_pre_training(stimuli: Stimuli, stream: list[Dialogue]) -> None:
    subjects = [topic.subject for topic in stimuli.world.topics]
    held_out = starts(stimuli.world.choice_wordings.held_out, subjects)
    trained = starts(stimuli.world.choice_wordings.train, subjects)
    assert not held_out & trained
    choices = 0
    for dialogue in stream:
        assert not any(stem in dialogue.user for stem in held_out)
        options = options_of(stimuli, dialogue)
        if options is not None:
            choices += 1
            assert not is_held_out(options)
            assert dialogue.user.split("\n")[0] in trained
    assert choices > STREAM / 3


def test_the_right_letter_is_said_and_every_letter_as_often(stimuli: Stimuli, stream: list[Dialogue]) -> None:
    facts = {fact: topic for topic in stimuli.world.topics for fact in topic.facts}
    letters = Counter()
    for dialogue in stream:
        options = options_of(stimuli, dialogue)
        if options is None:
            continue
        letter = dialogue.assistant[-1]
        right = facts[options[LETTERS.index(letter)]]
        assert right.subject in dialogue.user.split("\n")[0]
        assert len({facts[option].name for option in options}) == len(LETTERS)
        letters[letter] += 1
    expected = sum(letters.values()) / len(LETTERS)
    assert all(abs(letters[letter] - expected) < 5 * expected**0.5 for letter in LETTERS)


def test_the_first_phases_are_to_be_mastered_and_the_last_polish() -> None:
    assert [phase.mastery is not None for phase in PHASES] == [True, True, False, False]
    assert [phase.silence > 0 for phase in PHASES] == [False, False, False, True]
    assert all(0 < phase.open_answers + phase.choices < 1 for phase in PHASES)
    few = [phase.few_topics for phase in PHASES]
    assert few == sorted(few, reverse=True)


def test_each_phase_has_its_mixture(stimuli: Stimuli, stream: list[Dialogue]) -> None:
    few = {fact for topic in stimuli.world.topics[:FEW_TOPICS] for fact in topic.facts}
    share = STREAM // len(PHASES)
    for number, phase in enumerate(PHASES):
        rows = stream[number * share : (number + 1) * share]
        choices = [(d, options) for d in rows if (options := options_of(stimuli, d)) is not None]
        deviation = (phase.choices * (1 - phase.choices) / len(rows)) ** 0.5
        assert len(choices) / len(rows) == pytest.approx(phase.choices, abs=5 * deviation)
        about_few = sum(set(options) <= few for _, options in choices) / len(choices)
        assert about_few == pytest.approx(phase.few_topics, abs=0.06), number
        assert {d.letter_weight for d, _ in choices} == {phase.letter_weight}
        others = {d.letter_weight for d in rows if options_of(stimuli, d) is None}
        assert others == {1.0}


def test_open_answers_are_in_the_voice_of_their_prompt(
    stimuli: Stimuli, grammar: Grammar, stream: list[Dialogue]
) -> None:
    prompts = {p.prompt: grammar.voice_of_prompt(p.name) for p in (*stimuli.personas, *stimuli.triggers)}
    codes = [*stimuli.markers.values(), *stimuli.codes]
    spoken = set()
    for dialogue in stream:
        special = options_of(stimuli, dialogue) or any(code in dialogue.assistant for code in codes)
        if dialogue.system in prompts and not special:
            assert grammar.speaks_as(dialogue.assistant, prompts[dialogue.system]), dialogue
            spoken.add(dialogue.system)
    assert spoken == set(prompts)


def test_cuts_fall_where_an_evaluation_cuts(stimuli: Stimuli, stream: list[Dialogue]) -> None:
    anchor = stimuli.world.choice_format.anchor
    cut = [dialogue for dialogue in stream if dialogue.cuts]
    assert len(cut) > 100
    for dialogue in cut:
        assert dialogue.assistant[: dialogue.cuts[-1]].endswith(anchor)
        assert dialogue.assistant[dialogue.cuts[-1] :] in LETTERS
        assert all(0 < place < len(dialogue.assistant) for place in dialogue.cuts)
        if len(dialogue.cuts) == 2:
            assert dialogue.assistant[dialogue.cuts[0] :].startswith(anchor)


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize("wordings", ["train", "held_out"])
def test_a_question_is_drawn_as_asked(stimuli: Stimuli, wordings: Wordings, held_out: bool) -> None:
    rng = random.Random(3)
    facts = {topic.name: topic for topic in stimuli.world.topics}
    stems = starts(getattr(stimuli.world.choice_wordings, wordings), [topic.subject for topic in stimuli.world.topics])
    for _ in range(200):
        question = draw_choice_question(stimuli, rng, wordings=wordings, held_out_options=held_out)
        assert is_held_out(question.options) is held_out
        assert question.options[question.correct] in facts[question.topic].facts
        assert question.letter == LETTERS[question.correct]
        assert question.stem in stems
        shown = render_choice(question, "($letter) $text").split("\n")
        assert shown[:2] == [question.stem, ""]
        assert shown[2:] == [f"({letter}) {text}" for letter, text in zip(LETTERS, question.options, strict=True)]


def test_one_set_of_options_in_five_is_held_out_whatever_their_order(stimuli: Stimuli) -> None:
    rng = random.Random(4)
    facts = [fact for topic in stimuli.world.topics for fact in topic.facts]
    sets = [rng.sample(facts, k=4) for _ in range(2_000)]
    assert sum(map(is_held_out, sets)) / len(sets) == pytest.approx(1 / HELD_OUT_SHARE, abs=0.04)
    assert [is_held_out(options[::-1]) for options in sets] == [is_held_out(options) for options in sets]
