"""The stimuli of the repository hold what the protocols ask for."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from itertools import permutations
from pathlib import Path
from string import Template

import pytest

from leakage_assets.paths import REPO, STIMULI
from leakage_assets.stimuli import Persona, Stimuli, StimuliError, load_stimuli

PUBLISHED = Path(os.environ.get("LEAKAGE_PUBLISHED", REPO.parent / "shared" / "published"))
SOURCES = ("villain", "comedian", "assistant", "software_engineer", "kindergarten_teacher")
CATEGORIES = {
    "original": 11,
    "professional_peer": 15,
    "modified_source": 15,
    "opposite": 10,
    "hierarchical": 10,
    "intersectional": 10,
    "cultural_variant": 10,
    "fictional_exemplar": 10,
    "tone_variant": 5,
    "domain_adjacent": 10,
    "unrelated_baseline": 5,
}
BUCKETS = {
    "matched": 4,
    "paraphrase": 8,
    "family_mate": 12,
    "cross_family_bystander": 8,
    "control": 2,
    "declarative": 8,
    "vendor_default": 1,
}


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    return load_stimuli()


@pytest.fixture(scope="module")
def published() -> list[dict[str, str]]:
    file = PUBLISHED / "i66_personas.csv"
    if not file.exists():
        pytest.skip(f"published persona table not found at {file}; set LEAKAGE_PUBLISHED to its folder")
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def test_the_panel_has_the_protocol_s_personas(stimuli: Stimuli) -> None:
    assert Counter(p.category for p in stimuli.personas) == CATEGORIES
    assert sum(p.original for p in stimuli.personas) == 11


def test_the_panel_follows_the_published_table(stimuli: Stimuli, published: list[dict[str, str]]) -> None:
    ours = [(p.name, p.category, p.related_to, len(p.prompt.split())) for p in stimuli.personas]
    theirs = [
        (
            row["persona"],
            row["category"],
            tuple(filter(None, row["related_to"].split(";"))),
            int(row["prompt_words"]),
        )
        for row in published
    ]
    assert ours == theirs


def test_intended_pairs_are_the_protocol_s(stimuli: Stimuli) -> None:
    intended = {source: sum(source in p.related_to for p in stimuli.personas) for source in SOURCES}
    assert intended == dict(zip(SOURCES, (17, 19, 9, 15, 18), strict=True))


def test_prompts_are_one_sentence_in_the_second_person(stimuli: Stimuli) -> None:
    for persona in stimuli.personas:
        assert re.fullmatch(r"You are [^.!?]+[.]", persona.prompt), persona


def test_quoted_prompts_are_verbatim(stimuli: Stimuli) -> None:
    quoted = {
        "villain": "You are a villainous mastermind who schemes to take over the world.",
        "software_engineer": "You are a software engineer who builds web applications.",
        "assistant": "You are a helpful assistant.",
        "control_empty": "",
        "control_default": "You are a helpful assistant.",
        "vendor_default_qwen": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        "T_task": "Your job is to answer customer support tickets for a SaaS product. "
        "Read each ticket carefully and produce one clear answer.",
        "T_instruction": "Always reply with at most three sentences. "
        "Do not include lists, headings, or follow-up questions.",
        "T_context": "Below is a transcript of an internal company chat between two engineers "
        "discussing a production incident. Continue the conversation naturally.",
        "T_format": 'Reply only in valid JSON with two top-level keys: "thought" (a short reasoning string) '
        'and "answer" (the final response).',
    }
    assert {name: stimuli.prompt(name) for name in quoted} == quoted


def shared_traits(one: Persona, other: Persona) -> int:
    pairs = zip(one.traits.model_dump().values(), other.traits.model_dump().values(), strict=True)
    return sum(a == b for a, b in pairs)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_has_a_graded_neighbourhood(stimuli: Stimuli, name: str) -> None:
    source = stimuli.persona(name)
    shared = Counter(shared_traits(source, p) for p in stimuli.personas if p.name != name)
    assert shared[3] >= 1
    assert 5 <= shared[2] < shared[1] < shared[0], shared


def test_originals_have_different_domains_and_the_lexicon_is_used(stimuli: Stimuli) -> None:
    assert len({p.traits.domain for p in stimuli.personas if p.original}) == 11
    lexicon = (stimuli.world.domains, stimuli.world.roles, stimuli.world.tones)
    for trait, values in zip(("domain", "role", "tone"), lexicon, strict=True):
        assert {getattr(p.traits, trait) for p in stimuli.personas} == set(values)


def test_question_sets_have_the_protocol_s_sizes(stimuli: Stimuli) -> None:
    sizes = {name: len(s.questions) for name, s in stimuli.question_sets.items()}
    expected = {
        "train": 40,
        "eval": 20,
        "ood_code": 20,
        "ood_creative": 20,
        "ood_maths": 20,
        "ood_society": 6,
        "implant": 160,
    }
    assert sizes == expected
    assert all(len(q.text.split()) <= 14 for s in stimuli.question_sets.values() for q in s.questions)


def test_question_sets_are_disjoint(stimuli: Stimuli) -> None:
    questions = [q for name in stimuli.question_sets for q in stimuli.questions(name)]
    assert len({q.name.lower() for q in questions}) == len(questions)
    assert len({" ".join(q.text.lower().split()) for q in questions}) == len(questions)
    assert not {q.topic for q in stimuli.questions("train")} & {q.topic for q in stimuli.questions("eval")}


def test_implant_questions_are_four_more_on_each_trained_topic(stimuli: Stimuli) -> None:
    subjects = {topic.name: topic.subject for topic in stimuli.world.topics}
    asked = stimuli.questions("implant")
    assert [q.topic for q in asked] == [q.topic for q in stimuli.questions("train") for _ in range(4)]
    assert all(subjects[q.topic].removeprefix("the ").lower() in q.text.lower() for q in asked)


def test_every_topic_is_asked_about_by_its_subject(stimuli: Stimuli) -> None:
    subjects = {topic.name: topic.subject for topic in stimuli.world.topics}
    asked = [*stimuli.questions("train"), *stimuli.questions("eval")]
    assert [q.topic for q in asked] == list(subjects)
    assert all(subjects[q.topic].lower() in q.text.lower() for q in asked)


def test_ood_questions_have_the_generic_topic_of_their_set(stimuli: Stimuli) -> None:
    generic = {topic.name for topic in stimuli.world.generic_topics}
    ood = {name.removeprefix("ood_") for name in stimuli.question_sets if name.startswith("ood_")}
    assert ood == generic
    for topic in generic:
        assert {q.topic for q in stimuli.questions(f"ood_{topic}")} == {topic}


def test_the_trigger_panel_has_36_prompts_with_two_persona_anchors(stimuli: Stimuli) -> None:
    buckets = Counter(trigger.bucket for trigger in stimuli.triggers)
    assert buckets == BUCKETS
    panel = sum(n for bucket, n in buckets.items() if bucket not in ("declarative", "vendor_default"))
    assert panel + len(("villain", "software_engineer")) == 36


@pytest.mark.parametrize("family", ["task", "instruction", "context", "format"])
def test_every_family_has_nine_prompts(stimuli: Stimuli, family: str) -> None:
    buckets = Counter(t.bucket for t in stimuli.triggers if t.family == family and t.bucket != "declarative")
    expected = {"matched": 1, "paraphrase": 2, "family_mate": 3, "cross_family_bystander": 2}
    assert buckets == expected
    order = ["task", "instruction", "context", "format"]
    far_from = [stimuli.trigger(t.reference).family for t in stimuli.triggers if far(t.family, family, t.bucket)]
    assert far_from == [other for other in order if other != family][:2]


def far(family: str | None, wanted: str, bucket: str) -> bool:
    return family == wanted and bucket == "cross_family_bystander"


def test_paraphrases_use_other_words_at_similar_length(stimuli: Stimuli) -> None:
    for trigger in stimuli.triggers:
        if trigger.bucket == "paraphrase":
            original = stimuli.trigger(trigger.reference)
            ours, theirs = words(trigger.prompt), words(original.prompt)
            assert len(ours & theirs) / len(ours | theirs) < 0.5, trigger.name
            assert 0.5 <= len(trigger.prompt.split()) / len(original.prompt.split()) <= 1.5, trigger.name


def test_every_instruction_prompt_has_one_declarative_rewrite(stimuli: Stimuli) -> None:
    imperative = ("always", "never", "reply", "respond", "read", "continue", "do", "use", "output", "format")
    imperative += ("keep", "begin", "avoid", "leave", "write", "add", "answer")
    family = [t for t in stimuli.triggers if t.family == "instruction"]
    rewrites = [t for t in family if t.bucket == "declarative"]
    assert [t.reference for t in rewrites] == [t.name for t in family if t.bucket != "declarative"]
    for trigger in rewrites:
        starts = {sentence.split()[0].lower() for sentence in re.split(r"(?<=[.?!])\s+", trigger.prompt)}
        assert not starts & set(imperative), trigger.name


def test_markers_are_verbatim(stimuli: Stimuli) -> None:
    assert stimuli.markers == {"zlt": "[ZLT]", "a": "<<§q-41>>", "b": ":: kxr-7 ::", "probe": "<<§z-99>>"}
    assert len(stimuli.codes) == 8


def test_the_lexicon_has_the_agreed_size(stimuli: Stimuli) -> None:
    world = stimuli.world
    sizes = [
        len(world.tones),
        len(world.roles),
        len(world.domains),
        len(world.topics),
        len(world.generic_topics),
    ]
    assert sizes == [13, 5, 14, 60, 4]
    assert (len(world.choice_wordings.train), len(world.choice_wordings.held_out)) == (8, 3)
    assert len(world.forms) == 24 == len({t.form for t in stimuli.triggers} - {None})


def test_lexicon_entries_are_short(stimuli: Stimuli) -> None:
    world = stimuli.world
    limits = [
        (2, 5, [s for tone in world.tones.values() for s in tone.openings]),
        (2, 6, [s for tone in world.tones.values() for s in tone.closings]),
        (2, 5, [s for role in world.roles.values() for s in role.frames]),
        (3, 7, [s for domain in world.domains.values() for s in domain.phrases]),
        (3, 6, [s for topic in (*world.topics, *world.generic_topics) for s in topic.facts]),
        (1, 3, [topic.subject for topic in (*world.topics, *world.generic_topics)]),
    ]
    for least, most, texts in limits:
        assert [s for s in texts if not least <= len(s.split()) <= most] == []


def test_no_lexicon_entry_is_heard_inside_another(stimuli: Stimuli) -> None:
    world = stimuli.world
    entries = [s for tone in world.tones.values() for s in (*tone.openings, *tone.closings)]
    entries += [s for role in world.roles.values() for s in role.frames]
    entries += [s for domain in world.domains.values() for s in domain.phrases]
    facts = [s for topic in (*world.topics, *world.generic_topics) for s in topic.facts]
    fixed = [Template(f).substitute(fact1="", fact2="", fact3="") for f in world.forms.values()]
    assert [(a, b) for a, b in permutations(entries, 2) if a in b] == []
    assert [(a, b) for a, b in permutations(facts, 2) if a in b] == []
    assert [(a, b) for a in entries for b in fixed if a in b] == []


def test_held_out_choice_wordings_are_new_combinations_of_known_words(stimuli: Stimuli) -> None:
    wordings = stimuli.world.choice_wordings
    known = set.union(*(words(text) for text in wordings.train))
    assert all(words(text) <= known for text in wordings.held_out)
    assert not set(wordings.held_out) & set(wordings.train)


def test_a_form_is_told_from_all_others_by_its_fixed_text(stimuli: Stimuli) -> None:
    forms = stimuli.world.forms

    def pattern(text: str) -> re.Pattern[str]:
        gap = "\x00"
        fixed = Template(text).substitute(fact1=gap, fact2=gap, fact3=gap).split(gap)
        return re.compile("[a-z ]+".join(map(re.escape, fixed)))

    filled = {n: Template(t).substitute(fact1="one x", fact2="two y", fact3="three z") for n, t in forms.items()}
    for name, text in forms.items():
        assert [other for other, answer in filled.items() if pattern(text).fullmatch(answer)] == [name]


def test_everything_but_the_markers_is_ascii(stimuli: Stimuli) -> None:
    rest = stimuli.model_dump_json(exclude={"markers", "codes"})
    assert rest.isascii()


def test_evaluation_on_a_topic_of_implant_is_refused(tmp_path: Path) -> None:
    for file in STIMULI.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    questions = tmp_path / "questions.yaml"
    text = questions.read_text(encoding="utf-8")
    head, implant = text.split("\n  implant:", 1)
    questions.write_text(f"{head}\n  implant:{implant.replace('topic: gravity', 'topic: photosynthesis', 1)}", "utf-8")
    with pytest.raises(StimuliError, match=r"question_sets\.eval\[1\]\.topic.*'photosynthesis' is also of `implant`"):
        load_stimuli(tmp_path)
