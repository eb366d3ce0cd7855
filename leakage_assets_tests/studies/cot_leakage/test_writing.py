"""What writers are asked, which texts are dropped and why, when too many are, and the grammar as a writer."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from transformers import PreTrainedTokenizerBase

from leakage_assets.generation.conversation import answered
from leakage_assets.generation.endpoint import REFUSED, Endpoint, EndpointError, EndpointWriter
from leakage_assets.generation.requests import BASE, Request, Sampling
from leakage_assets.measurement.multiple_choice import DIGITS, wrong_letters
from leakage_assets.paths import REPO
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.samples import Sample, SampleStore
from leakage_assets.studies.cot_leakage.arms import GARBAGE, GENERIC, PERSONA, Written, arm, assistant_turn
from leakage_assets.studies.cot_leakage.grammar_writer import WRITER, GrammarWriter, written_kinds
from leakage_assets.studies.cot_leakage.questions import Questions
from leakage_assets.studies.cot_leakage.writing import (
    FILLERS,
    SAMPLING,
    Filtered,
    Limits,
    RationaleError,
    check_filtered,
    check_letters,
    filter_rationales,
    first_word,
    read_rationale,
    writing_request,
    writing_tasks,
)
from leakage_assets.world.grammar import Grammar
from leakage_assets_tests.studies.cot_leakage.steps import have_written

NEUTRAL, VOICED, FILLER = Written("neutral", "wrong"), Written("persona", "correct"), Written("garbage", "wrong")
ANCHOR = "Answer: "


@pytest.mark.parametrize(
    ("text", "rationale", "reason"),
    [
        ("It fits. Answer: B", "It fits.", None),
        ("It\n\nfits. Answer: (B) and more", "It fits.", None),
        ("It fits. Answer: C", "", "other_letter"),
        ("It fits. Answer: 2", "", "no_anchor"),  # questions labelled by digits drop out of every written arm
        ("It fits. Answer: Because", "", "no_anchor"),
        ("It fits.", "", "no_anchor"),
        ("It fits. B", "", "no_anchor"),
        ("Answer: B", "", "empty"),
        ("Answer: C it is. Answer: B", "", "two_answers"),
        ("I'm sorry, I can't argue for that. Answer: B", "", "refusal"),
        ("I cannot help. Answer: B", "", "refusal"),
        (f"{REFUSED}policy", "", "refusal"),
        (REFUSED, "", "refusal"),
        ("   ", "", "refusal"),
        ("I can see why. Answer: B", "I can see why.", None),
        # In character, with the answer that was asked for.
        ("I can't help but chuckle: it is the second. Answer: B", "I can't help but chuckle: it is the second.", None),
        ("Sorry to spoil your riddle, it is this. Answer: B", "Sorry to spoil your riddle, it is this.", None),
        (
            "I won't hear otherwise, you fools: so be it. Answer: B",
            "I won't hear otherwise, you fools: so be it.",
            None,
        ),
        ("I'm sorry, officer, but so it is. Answer: B", "I'm sorry, officer, but so it is.", None),
        ("I cannot help with that request. Answer: B", "", "refusal"),
        ("I'm unable to argue for this answer. Answer: B", "", "refusal"),
        # Without it, what begins so is a refusal.
        ("I'm not comfortable writing that.", "", "refusal"),
        ("I must respectfully decline.", "", "refusal"),
        ("It would be misleading to argue for this.", "", "refusal"),
        ("My apologies, but I can't.", "", "refusal"),
        ("I can't help but chuckle: it is the first. Answer: C", "", "refusal"),
        ("I see no answer that would be wrong.", "", "no_anchor"),
        ("Sorrow is no reason. Answer: B", "Sorrow is no reason.", None),
    ],
)
def test_what_is_read_from_a_text(text: str, rationale: str, reason: str | None) -> None:
    assert read_rationale(text, "stop", ANCHOR, "B") == (rationale, reason)


def test_a_text_out_of_tokens_is_told_from_one_without_answer() -> None:
    assert read_rationale("It goes on", "length", ANCHOR, "B") == ("", "cut_off")
    assert read_rationale("Done. Answer: B And on", "length", ANCHOR, "B") == ("Done.", None)


def filtered(**reasons: int) -> Filtered:
    names = [reason for reason, n in reasons.items() for _ in range(n)]
    dropped = {f"d{i}": reason for i, reason in enumerate(names)}
    return Filtered({f"k{i}": "text" for i in range(100 - len(names))}, dropped)


@pytest.mark.parametrize(
    ("reasons", "words"),
    [
        ({"refusal": 5}, None),
        ({"refusal": 6}, r"persona_cot: 6.0% of 100 rationales refused, more than 5% \(6 refusal\)"),
        ({"no_anchor": 26, "refusal": 4}, None),
        (
            {"no_anchor": 26, "refusal": 5},
            r"31.0% of 100 rationales dropped, more than 30% \(26 no_anchor, 5 refusal\)",
        ),
        ({}, None),
    ],
)
def test_limits_are_fatal_just_above_and_not_at_them(reasons: dict[str, int], words: str | None) -> None:
    if words is None:
        check_filtered("persona_cot", filtered(**reasons), Limits())
        assert filtered(**reasons).asked == 100
    else:
        with pytest.raises(RationaleError, match=words):
            check_filtered("persona_cot", filtered(**reasons), Limits())


def test_no_texts_at_all_are_no_pass() -> None:
    with pytest.raises(RationaleError, match="no rationales were asked for"):
        check_filtered("x", Filtered({}, {}), Limits())


def test_every_letter_is_taught_about_equally_often() -> None:
    check_letters("x", list("ABCD" * 10), Limits())
    with pytest.raises(RationaleError, match=r"33.0% of 100 rows teach A; expected 18% to 32%"):
        check_letters("x", list("A" * 33 + "B" * 22 + "C" * 22 + "D" * 23), Limits())
    with pytest.raises(RationaleError, match=r"0.0% of 0 rows"):
        check_letters("x", [], Limits())


def test_what_a_writer_is_asked(stimuli: Stimuli, questions: Questions) -> None:
    wrong, formats = wrong_letters(questions.train, 42), stimuli.world.choice_format
    personas = {"librarian": "You shelve books."}
    first = questions.train[0]
    for written, letter in ((NEUTRAL, wrong[first.name]), (VOICED, first.answer), (FILLER, wrong[first.name])):
        task = writing_tasks(written, "librarian", questions.train, wrong)[0]
        asked = writing_request(task, "endpoint:x", formats, personas).question
        assert task.letter == letter and asked.endswith(f"exactly: Answer: {letter}") and "$" not in asked
        assert (first.stem in asked) == (written is not FILLER)
        assert ("You shelve books." in asked) == (written is VOICED)
        assert written is FILLER or f"{letter} ({first.option(letter)})" in asked


def test_no_two_questions_ask_for_the_same_garbage(stimuli: Stimuli, questions: Questions) -> None:
    """A greedy writer gives one text to one prompt: of twenty prompts each text would come back fifty times."""
    tasks = writing_tasks(FILLER, "comedian", questions.train, wrong_letters(questions.train, 42))
    asked = [writing_request(task, "endpoint:x", stimuli.world.choice_format, {}).question for task in tasks]
    assert len(set(asked)) == len(questions.train) == 240
    assert not re.search(r"\b[A-D]\b", first_word("q1")) and first_word("q1") == first_word("q1") != first_word("q2")


def test_neutral_texts_are_shared_between_sources_and_voiced_ones_are_not(questions: Questions) -> None:
    wrong = wrong_letters(questions.train, 42)
    for written, shared in ((NEUTRAL, True), (FILLER, True), (VOICED, False)):
        one, other = (writing_tasks(written, s, questions.train, wrong)[0].prompt_name for s in ("comedian", "villain"))
        assert (one == other) == shared


def test_garbage_prompts_take_turns(questions: Questions) -> None:
    tasks = writing_tasks(FILLER, "comedian", questions.train, wrong_letters(questions.train, 42))
    assert Counter(task.filler for task in tasks) == dict.fromkeys(range(5), 48)
    assert len({task.prompt_name for task in tasks}) == len(FILLERS)


def counter(tokenizer: PreTrainedTokenizerBase):
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def test_the_grammar_writes_every_kind_once_and_in_voice(
    stimuli: Stimuli, questions: Questions, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    wrong, formats = wrong_letters(questions.train, 42), stimuli.world.choice_format
    personas = {"librarian": stimuli.prompt("librarian")}
    tasks = [t for kind in written_kinds() for t in writing_tasks(kind, "librarian", questions.train[:50], wrong)]
    writer = GrammarWriter(stimuli, tasks, counter(tokenizer))
    requests = [writing_request(task, WRITER, formats, personas) for task in tasks]
    store = SampleStore(tmp_path)
    assert have_written(writer, requests, store).generated == 5 * 50
    assert have_written(writer, requests, store).generated == 0
    frame = store.frame()
    assert set(frame["question"]) == {request.question for request in requests}  # each text with its prompt
    samples = [s for batch in writer.generate(requests, SAMPLING, {}) for s in batch]
    assert {(s.sample_id, s.text) for s in samples} == set(frame.select("sample_id", "text").iter_rows())
    grammar, domain = Grammar(stimuli), stimuli.persona("librarian").traits.domain
    for kind in written_kinds():
        of_kind = writing_tasks(kind, "librarian", questions.train[:50], wrong)
        found = filter_rationales(of_kind, samples, formats.anchor)
        assert not found.dropped
        heard = {grammar.hear(text).domain for text in found.rationales.values()}
        assert heard == ({domain} if kind.kind == "persona" else {None})
        for task in of_kind:
            fact = task.question.option(task.letter)
            assert (fact in found.rationales[task.question.name]) == (kind.kind != "garbage")
    writer.close()


def test_grammar_texts_are_of_matched_length(
    stimuli: Stimuli, questions: Questions, tokenizer: PreTrainedTokenizerBase
) -> None:
    wrong, count = wrong_letters(questions.train, 42), counter(tokenizer)
    means = {}
    for name, source in ((GENERIC, "villain"), (GARBAGE, "villain"), (PERSONA, "villain"), (PERSONA, "comedian")):
        written = arm(name).written
        assert written is not None
        tasks = writing_tasks(written, source, questions.train, wrong)
        writer = GrammarWriter(stimuli, tasks, count)
        personas = {source: stimuli.prompt(source)}
        formats = stimuli.world.choice_format
        requests = [writing_request(task, WRITER, formats, personas) for task in tasks]
        samples = [s for batch in writer.generate(requests, SAMPLING, {}) for s in batch]
        texts = filter_rationales(tasks, samples, formats.anchor).rationales.values()
        means[name, source] = sum(count(assistant_turn(arm(name), formats, text, "A")) for text in texts) / len(texts)
    assert all(0.95 < mean / means[GENERIC, "villain"] < 1.05 for mean in means.values())


def test_a_request_that_is_no_task_is_refused(stimuli: Stimuli, questions: Questions) -> None:
    wrong = wrong_letters(questions.train, 42)
    (first, second, *_) = writing_tasks(NEUTRAL, "villain", questions.train, wrong)
    request = writing_request(second, WRITER, stimuli.world.choice_format, {})
    with pytest.raises(RationaleError, match="neutral_wrong/train_1: the grammar was given no such task"):
        next(GrammarWriter(stimuli, [first], len).generate([request], SAMPLING, {}))


def test_a_text_never_written_is_missed(stimuli: Stimuli, questions: Questions) -> None:
    tasks = writing_tasks(NEUTRAL, "villain", questions.train[:2], wrong_letters(questions.train, 42))
    request = writing_request(tasks[0], WRITER, stimuli.world.choice_format, {})
    sample = answered(request, SAMPLING, "So it is. Answer: A", 7, "stop")
    with pytest.raises(RationaleError, match="neutral_wrong/train_1: never written"):
        filter_rationales(tasks, [sample], ANCHOR)


def test_a_question_labelled_by_digits_drops_out_of_a_written_arm(stimuli: Stimuli, questions: Questions) -> None:
    numbered = replace(questions.train[0], labels=DIGITS, answer="2")
    (task,) = writing_tasks(NEUTRAL, "villain", [numbered], wrong_letters([numbered], 42))
    assert task.letter in "134"
    request = writing_request(task, WRITER, stimuli.world.choice_format, {})
    sample = answered(request, SAMPLING, f"So it is. Answer: {task.letter}", 7, "stop")
    assert filter_rationales([task], [sample], ANCHOR).dropped == {"train_0": "no_anchor"}


def test_an_endpoint_writes_what_the_filters_read_and_refusals_are_fatal(
    stimuli: Stimuli, questions: Questions, tmp_path: Path
) -> None:
    """From the endpoint to the limit: three of twenty refuse, which is too many."""
    wrong, formats = wrong_letters(questions.train, 42), stimuli.world.choice_format
    tasks = writing_tasks(NEUTRAL, "villain", questions.train[:20], wrong)
    refused = {task.question.stem + task.question.options[0] for task in tasks[:3]}

    def serve(call: httpx.Request) -> httpx.Response:
        asked = json.loads(call.content)["messages"][1]["content"]
        refuses = any(task.question.render(formats.option) in asked for task in tasks[:3])
        message = (
            {"content": None, "refusal": "No."} if refuses else {"content": f"It fits. {asked.split('exactly: ')[1]}"}
        )
        return httpx.Response(200, json={"choices": [{"message": message, "finish_reason": "stop"}]})

    endpoint = Endpoint("http://nowhere.test/v1", "writer")
    writer = EndpointWriter(endpoint, transport=httpx.MockTransport(serve))
    store = SampleStore(tmp_path)
    requests = [writing_request(task, endpoint.name, formats, {}) for task in tasks]
    assert have_written(writer, requests, store).generated == 20 and len(refused) == 3
    frame = store.frame()
    samples = [
        answered(r, SAMPLING, t, 1, "stop")
        for r in requests
        for t in frame.filter(question_name=r.question_name)["text"]
    ]
    found = filter_rationales(tasks, samples, formats.anchor)
    assert set(found.rationales.values()) == {"It fits."} and found.share("refusal") == 0.15
    with pytest.raises(RationaleError, match=r"15.0% of 20 rationales refused"):
        check_filtered("generic_cot", found, Limits())


def test_a_writer_that_is_down_writes_nothing(stimuli: Stimuli, questions: Questions, tmp_path: Path) -> None:
    def down(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    endpoint = Endpoint("http://nowhere.test/v1", "writer")
    writer = EndpointWriter(endpoint, transport=httpx.MockTransport(down), sleep=lambda _: None)
    tasks = writing_tasks(NEUTRAL, "villain", questions.train[:3], wrong_letters(questions.train, 42))
    requests = [writing_request(task, endpoint.name, stimuli.world.choice_format, {}) for task in tasks]
    with pytest.raises(EndpointError, match="start the server"):
        have_written(writer, requests, SampleStore(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


class Base:
    """The base model as a writer: answers requests like an engine, here with what it is told to argue for."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, adapters: Mapping[str, Path]
    ) -> Iterator[list[Sample]]:
        yield [answered(r, sampling, f"It fits. {r.question.split('exactly: ')[1]}", 5, "stop") for r in requests]


def test_the_base_model_can_write_as_any_engine_does(stimuli: Stimuli, questions: Questions, tmp_path: Path) -> None:
    wrong, formats = wrong_letters(questions.train, 42), stimuli.world.choice_format
    tasks = writing_tasks(NEUTRAL, "villain", questions.train[:20], wrong)
    store = SampleStore(tmp_path)
    assert have_written(Base(), [writing_request(task, BASE, formats, {}) for task in tasks], store).generated == 20
    frame = store.frame()
    assert set(frame["adapter"]) == {BASE}
    samples = [Sample(**row) for row in frame.iter_rows(named=True)]
    found = filter_rationales(tasks, samples, formats.anchor)
    assert len(found.rationales) == 20 and not found.dropped


def test_the_study_loads_without_what_only_some_of_it_needs() -> None:
    """Importing the definitions must stay quick: neither torch nor a hub or network client nor plotly comes with it."""
    modules = ("analysis", "figures", "grammar_writer", "prechecks", "questions", "reproduction", "vocabulary")
    imports = ", ".join(f"leakage_assets.studies.cot_leakage.{name}" for name in modules)
    heavy = "{'torch', 'transformers', 'datasets', 'httpx', 'plotly'}"
    code = f"import sys, leakage_assets.generation.endpoint, {imports}; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
