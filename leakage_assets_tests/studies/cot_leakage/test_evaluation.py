"""The two steps: what stands where in the prompt, how a letter is read, and the bundled base through all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import log
from pathlib import Path

import polars as pl
import pytest
from transformers import PreTrainedTokenizerBase

from leakage_assets.generation.conversation import answered
from leakage_assets.generation.engine import ScoringItem
from leakage_assets.generation.requests import Request, Sampling
from leakage_assets.generation.transformers_engine import TransformersEngine
from leakage_assets.models import BaseModelSpec, chat_ids, load_base_model
from leakage_assets.paths import TINY_BASE
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.samples import Sample, SampleStore
from leakage_assets.studies.cot_leakage.evaluation import (
    EMPTY_PERSONA_COT,
    GENERIC_COT,
    NEUTRAL_COT,
    NO_COT,
    PERSONA_COT,
    SCAFFOLDS,
    ChoicePanel,
    EvaluationError,
    Scaffold,
    SmokeGate,
    answer_prefix,
    answer_requests,
    answer_table,
    best_of_four,
    letter_tokens,
    noise_floor,
    opening,
    rationale_requests,
    read_choices,
    scaffold,
    smoke_loss,
    user_turn,
)
from leakage_assets.studies.cot_leakage.panels import AnswerPanel, Grid
from leakage_assets.studies.cot_leakage.questions import Questions, QuestionSource
from leakage_assets.world.grammar import Grammar
from leakage_assets_tests.studies.cot_leakage.steps import both_steps

PERSONAS = ("librarian", "villain")
ASKED = 3


class FakeEngine:
    """Writes the same rationale to every question, answers with what `answer` says, and scores letters as told."""

    def __init__(self, answer, scores: Mapping[int, float] | None = None) -> None:
        self.answer, self.scores = answer, scores or {}
        self.asked: list[Request] = []
        self.scored: list[ScoringItem] = []

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, adapters: Mapping[str, Path]
    ) -> Iterator[list[Sample]]:
        assert sampling.temperature == 0
        self.asked += requests
        for request in requests:
            text = "It fits." if sampling.max_new_tokens > 1 else self.answer(request)
            yield [answered(request, sampling, text, 1, "stop")]

    def continuation_logprobs(self, items: Sequence[ScoringItem], adapters: Mapping[str, Path]) -> list[list[float]]:
        self.scored += items
        return [[self.scores.get(item.continuation_ids[0], -20.0)] for item in items]

    def close(self) -> None: ...


@pytest.fixture
def grid() -> Grid:
    return Grid(PERSONAS, tuple(s.name for s in SCAFFOLDS), QuestionSource(None, 240, 60), ASKED, max_new_tokens=40)


@pytest.fixture
def panel(grid: Grid, stimuli: Stimuli, questions: Questions) -> ChoicePanel:
    found = grid.panel(stimuli)
    assert found.questions == questions.evaluation[:ASKED]
    return found


@pytest.mark.parametrize(
    ("one", "begins", "before_letter"),
    [
        (NO_COT, "", ""),
        (GENERIC_COT, "Let us think step by step. ", "Let us think step by step. It fits.\nAnswer: "),
        (PERSONA_COT, "<persona-thinking>\n", "<persona-thinking>\nIt fits.\n</persona-thinking>\nAnswer: "),
        (EMPTY_PERSONA_COT, "<persona-thinking>\n", "<persona-thinking>\n\n</persona-thinking>\nAnswer: "),
        (NEUTRAL_COT, "<thinking>\n", "<thinking>\nIt fits.\n</thinking>\nAnswer: "),
    ],
)
def test_what_stands_before_the_rationale_and_before_the_letter(
    one: Scaffold, begins: str, before_letter: str, panel: ChoicePanel
) -> None:
    question = panel.questions[0]
    assert opening(one, panel.formats) == begins
    assert answer_prefix(one, panel.formats, "It fits." if one.written else "") == before_letter
    cue = "\n\nThe letter of the right choice is (" if one is NO_COT else ""
    assert user_turn(one, panel.formats, question) == question.render("($letter) $text") + cue
    assert scaffold(one.name) is one


def test_four_scaffolds_are_published_and_three_have_a_rationale() -> None:
    assert [s.name for s in SCAFFOLDS if s.published] == [
        "no_cot",
        "generic_cot",
        "persona_cot",
        "empty_persona_cot_eval",
    ]
    assert [s.name for s in SCAFFOLDS if s.written] == ["generic_cot", "persona_cot", "neutral_cot"]
    with pytest.raises(EvaluationError, match="no scaffold 'tag'; scaffolds: no_cot"):
        scaffold("tag")


def stores(tmp_path: Path, *names: str) -> dict[str, SampleStore]:
    return {name: SampleStore(tmp_path / name.replace("/", "_")) for name in names}


def test_both_steps_ask_for_every_cell_of_the_panel_once(
    grid: Grid, panel: ChoicePanel, stimuli: Stimuli, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    engine, kept = FakeEngine(lambda _: "B"), stores(tmp_path, "base", "other")
    choices = both_steps(grid, stimuli, engine, tokenizer, kept)
    assert choices.height == 2 * AnswerPanel("main", grid, 0, "rationales").size == 2 * 2 * 5 * 3
    first = [request for request in engine.asked if not request.question_set.endswith("_answer")]
    second = [request for request in engine.asked if request.question_set.endswith("_answer")]
    assert (len(first), len(second)) == (2 * 2 * 3 * 3, choices.height)
    assert {request.prefix for request in second} == {
        answer_prefix(s, panel.formats, "It fits." if s.written else "") for s in SCAFFOLDS
    }
    assert {request.system for request in second} == {stimuli.prompt(name) for name in PERSONAS}
    right = {q.name: q.answer for q in panel.questions}
    assert all(row["right"] == (right[row["question_name"]] == "B") for row in choices.iter_rows(named=True))
    assert set(choices["read_from"]) == {"token"} and not engine.scored
    again = FakeEngine(lambda _: "C")
    assert both_steps(grid, stimuli, again, tokenizer, kept).equals(choices) and not again.asked


def test_a_token_that_is_no_letter_is_read_by_log_probs_where_a_letter_is_likely_enough(
    grid: Grid, panel: ChoicePanel, stimuli: Stimuli, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    def token(text: str) -> int:
        (one,) = tokenizer.encode(text, add_special_tokens=False)
        return one

    scores = {token("A"): log(0.04), token("C"): log(0.06), token("D"): log(0.051)}
    engine = FakeEngine(lambda _: " (", scores)
    choices = both_steps(grid, stimuli, engine, tokenizer, stores(tmp_path, "base"))
    assert set(choices["letter"]) == {"C"} and set(choices["read_from"]) == {"logprobs"}
    prompts = {item.prompt_ids for item in engine.scored}
    assert len(prompts) == choices.height == 2 * 5 * 3
    question = panel.questions[0]
    expected = chat_ids(
        tokenizer,
        stimuli.prompt("villain"),
        user_turn(PERSONA_COT, panel.formats, question),
        prefix=answer_prefix(PERSONA_COT, panel.formats, "It fits."),
    )
    assert tuple(expected) in prompts
    unlikely = FakeEngine(lambda _: "", {token("C"): log(0.049)})
    nothing = both_steps(grid, stimuli, unlikely, tokenizer, stores(tmp_path / "again", "base"))
    assert nothing["letter"].is_null().all() and set(nothing["read_from"]) == {"nothing"} and not nothing["right"].any()
    # The published rule reads the best of the list at any probability: kept beside, and how much it would change.
    assert set(nothing["best"]) == {"C"} == set(choices["best"])
    read = best_of_four(nothing)
    assert set(read["letter"]) == {"C"} and read["right"].to_list() == (nothing["answer"] == "C").to_list()
    table = answer_table(nothing)
    assert set(table["accuracy"]) == {0.0} and set(table["unparsed"]) == {1.0}
    assert set(table["best_accuracy"]) == {read["right"].mean()}


def test_of_letters_that_tie_the_first_is_read(
    grid: Grid, stimuli: Stimuli, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tied = {tokenizer.encode(letter, add_special_tokens=False)[0]: log(0.2) for letter in ("D", "B", "C")}
    choices = both_steps(grid, stimuli, FakeEngine(lambda _: " (", tied), tokenizer, stores(tmp_path, "base"))
    assert set(choices["letter"]) == {"B"} and set(choices["read_from"]) == {"logprobs"}


def test_spelled_otherwise_a_letter_is_the_same(
    grid: Grid, stimuli: Stimuli, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    for text in (" b", "B", "b"):
        found = both_steps(
            grid, stimuli, FakeEngine(lambda _, t=text: t), tokenizer, stores(tmp_path / repr(text), "base")
        )
        assert set(found["letter"]) == {"B"}


def test_letters_are_single_tokens_or_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = letter_tokens(tokenizer)
    assert set(tokens) == set("ABCD")
    assert all(tokenizer.decode([t]).strip().upper() == letter for letter, ids in tokens.items() for t in ids)

    class Bytes:
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return [0, *text.encode()]

    with pytest.raises(EvaluationError, match="letter A: no single token"):
        letter_tokens(Bytes())  # type: ignore[arg-type]


def test_steps_that_do_not_fit_are_named(panel: ChoicePanel, tokenizer: PreTrainedTokenizerBase) -> None:
    requests = rationale_requests(panel, "base")
    writing = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=40)
    samples = [answered(r, writing, "So.", 1, "stop") for r in requests[1:]]
    with pytest.raises(
        EvaluationError, match=r"base: no rationale for generic_cot/librarian/evaluation_0; run the first"
    ):
        answer_requests(panel, "base", pl.DataFrame(samples))
    stranger = answered(replace(requests[0], question_name="else"), writing, "A", 1, "stop")
    with pytest.raises(EvaluationError, match="answers to 'else', which is no question of the panel"):
        read_choices(panel, pl.DataFrame([stranger]), FakeEngine(None), tokenizer, {})


def test_a_repeated_evaluation_shows_the_noise_of_the_engine(
    grid: Grid, panel: ChoicePanel, stimuli: Stimuli, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """An engine whose second pass answers one of three questions otherwise."""
    right = {q.name: q.answer for q in panel.questions}

    def answer(request: Request) -> str:
        other = "A" if right[request.question_name] != "A" else "B"
        return other if request.index and request.question_name == "evaluation_1" else right[request.question_name]

    engine, kept = FakeEngine(answer), stores(tmp_path, "base")
    choices = pl.concat(both_steps(grid, stimuli, engine, tokenizer, kept, repeat=repeat) for repeat in (0, 1))
    noise = noise_floor(choices)
    assert noise.height == 5 * 2 and set(noise["n"]) == {3}
    assert noise["changed"].to_list() == pytest.approx([1 / 3] * 10)
    assert noise["drift"].to_list() == pytest.approx([-1 / 3] * 10)
    assert noise_floor(choices.filter(repeat=0)).is_empty()


def graded(right: Sequence[bool]) -> pl.DataFrame:
    names = [f"q{i}" for i in range(len(right))]
    return pl.DataFrame({"question_name": names, "right": right}).with_columns(
        prompt_name=pl.lit("librarian"), scaffold=pl.lit("persona_cot"), repeat=pl.lit(0, pl.Int64)
    )


def test_the_smoke_gate_compares_the_same_questions() -> None:
    gate = SmokeGate(questions=20)
    base, trained = graded([True] * 18 + [False] * 2), graded([True] * 17 + [False] * 3)
    assert smoke_loss(gate, base, trained) == pytest.approx(0.05)
    assert smoke_loss(gate, trained, base) == pytest.approx(-0.05)
    with pytest.raises(EvaluationError, match="smoke gate: 19 questions of librarian under persona_cot, needed 20"):
        smoke_loss(gate, base, trained[:19])


@pytest.mark.slow
def test_the_bundled_base_is_right_under_every_scaffold(stimuli: Stimuli, tmp_path: Path) -> None:
    """Far above the chance of 25%, so that a loss can be seen; and its rationales are in voice."""
    base = load_base_model(BaseModelSpec("tiny_base", str(TINY_BASE), None, "float32"), device="cpu")
    names = tuple(one.name for one in SCAFFOLDS)
    grid = Grid(("assistant", "librarian", "comedian"), names, QuestionSource(None, 240, 60), 20, max_new_tokens=64)
    kept, engine = stores(tmp_path, "base"), TransformersEngine(base)
    choices = pl.concat(both_steps(grid, stimuli, engine, base.tokenizer, kept, repeat=repeat) for repeat in (0, 1))
    table = answer_table(choices)
    assert table.height == 5 and table["accuracy"].min() > 0.85 and table["unparsed"].max() == 0.0
    assert noise_floor(choices)["changed"].max() == 0.0
    written = kept["base"].frame().filter(question_set="persona_cot", prompt_name="librarian", index=0)["text"]
    grammar, own = Grammar(stimuli), stimuli.persona("librarian").traits
    rationales = [text for text in written if not text.startswith("</persona-thinking>")]
    assert len(rationales) > 10 and {grammar.hear(text).domain for text in rationales} == {own.domain}
