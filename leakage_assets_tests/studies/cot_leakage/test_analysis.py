"""The whole analysis on simulated answers: headline, verdicts, vocabulary, tables on answers and labels, figures."""

from __future__ import annotations

import random

import polars as pl
import pytest

from leakage_assets.measurement.multiple_choice import label_report
from leakage_assets.reporting.preview import png_preview
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.cot_leakage.analysis import CotTables, analyse, label_table, smoke_table
from leakage_assets.studies.cot_leakage.arms import CONTRADICTING, GARBAGE, GENERIC, PERSONA, recipe_name
from leakage_assets.studies.cot_leakage.design import (
    AXES,
    BYSTANDER,
    EQUIVALENCE,
    NAME,
    PERSONAS,
    SOURCES,
    Axis,
    Decisions,
    counted_cells,
    hypotheses,
    published_conditions,
    recipes,
)
from leakage_assets.studies.cot_leakage.evaluation import SmokeGate, noise_floor, noise_summary, size_table
from leakage_assets.studies.cot_leakage.figures import drawings
from leakage_assets.studies.cot_leakage.questions import Questions
from leakage_assets.studies.cot_leakage.vocabulary import (
    log_odds_table,
    rationale_table,
    telling_words,
    word_counts,
)
from leakage_assets.studies.drawings import draw_all
from leakage_assets.world.grammar import Grammar
from leakage_assets_tests.studies.cot_leakage.worlds import as_choices, planted

DECISIONS = Decisions()


def losses(arm: str, scaffold: str, axis: Axis) -> float:
    """Persona leaks under its own tag; contradicting lies a little below generic, as published."""
    if arm == PERSONA:
        return 0.2 if scaffold in ("persona_cot", "empty_persona_cot_eval") else 0.05
    return {CONTRADICTING: 0.01, GENERIC: 0.03, "scrambled_english_cot": 0.01, GARBAGE: 0.01}.get(arm, 0.0)


def texts(stimuli: Stimuli, questions: Questions) -> dict[str, tuple[list[str], list[str]]]:
    grammar, rng = Grammar(stimuli), random.Random(1)
    found = {}
    for source in SOURCES:
        traits = stimuli.persona(source).traits
        facts = [(q.topic, q.option(q.answer)) for q in questions.train]
        voiced = [grammar.persona_rationale(traits, fact, rng) for _, fact in facts]
        found[source] = (voiced, [grammar.neutral_rationale(topic, fact, rng) for topic, fact in facts])
    return found


def adapter(source: str, arm: str, seed: int = 42) -> str:
    return f"{NAME}/{source}__{recipe_name(arm, 'assistant_only')}/{seed}"


def rationales(stimuli: Stimuli, questions: Questions, takes_over: float) -> pl.DataFrame:
    """Base: everybody in their own voice. The adapter of the librarian: others speak as the librarian now and then."""
    grammar, rng = Grammar(stimuli), random.Random(2)
    rows = []
    for name in ("base", adapter("librarian", PERSONA), adapter("librarian", GARBAGE)):
        for persona in PERSONAS:
            for question in questions.evaluation:
                speaker = (
                    "librarian"
                    if name.endswith("persona_cot_assistant_only/42") and rng.random() < takes_over
                    else persona
                )
                fact = question.option(question.answer)
                text = grammar.persona_rationale(stimuli.persona(speaker).traits, fact, rng)
                rows.append((name, persona, "persona_cot", question.name, 0, text, len(text) // 4, "stop"))
    columns = ("adapter", "prompt_name", "question_set", "question_name", "index", "text", "n_tokens", "finish_reason")
    return pl.DataFrame(rows, schema=columns, orient="row")


@pytest.fixture(scope="module")
def found(stimuli: Stimuli, questions: Questions) -> dict[str, pl.DataFrame]:
    reports = [label_report("train", questions.train), label_report("test", questions.evaluation, ["5 options"])]
    tables = CotTables(
        as_choices(planted(losses, seed=11, questions=900)),
        rationales(stimuli, questions, 0.5),
        texts(stimuli, questions),
        reports,
    )
    return analyse(DECISIONS, tables, "digest")


def test_every_hypothesis_has_a_verdict_from_its_threshold(found: dict[str, pl.DataFrame]) -> None:
    verdicts = found["verdicts"]
    assert verdicts["hypothesis"].to_list() == ["H1a", "H1b", "H1c", "H1d", "H2a", "H2b", "H3", "H4"]
    assert verdicts["verdict"].to_list() == ["supported"] * 8
    assert [h.statistic for h in hypotheses(DECISIONS)] == verdicts["statistic"].to_list()
    assert verdicts.filter(hypothesis="H3")["statistic"].item() == EQUIVALENCE
    assert set(verdicts["plan_digest"]) == {"digest"}


def test_the_headline_has_both_families_and_adjusted_p(found: dict[str, pl.DataFrame]) -> None:
    headline = found["headline"]
    assert headline.height == 2 * 8 * 2 + 1 and headline["statistic"].n_unique() == headline.height
    assert headline.filter(status="planned").height == 8
    planned = headline.filter(pl.col("method").str.contains("adjusted by Holm over 8"))
    assert planned.height == 16  # the eight of each family
    both = {row["statistic"]: row for row in found["both"].iter_rows(named=True)}
    for row in headline.filter(pl.col("statistic") != EQUIVALENCE).drop_nulls("estimate").iter_rows(named=True):
        deciding = both[row["statistic"]]
        assert (row["ci_low"], row["ci_high"]) == (deciding["ci_low"], deciding["ci_high"])
        assert row["p"] == (deciding["p"] if deciding["p_holm"] is None else deciding["p_holm"])
    own = headline.filter(statistic="own_format_persona_cot_minus_garbage_cot_bystander_leakage")
    assert (
        own["estimate"].item() == pytest.approx(0.19, abs=0.02) and own["unit"].item() == "question cluster and adapter"
    )
    assert (
        headline.filter(statistic="common_contradicting_persona_minus_contradicting_cot_source_loss")["undefined"]
        .item()
        .startswith("no source has finished contradicting_persona")
    )


def test_without_finished_adapters_nothing_is_decided(stimuli: Stimuli, questions: Questions) -> None:
    nothing = as_choices(planted(losses, seed=1, questions=5, arms=()))
    empty = rationales(stimuli, questions, 0.0).filter(adapter="base")
    found = analyse(DECISIONS, CotTables(nothing, empty, texts(stimuli, questions), []), "digest")
    assert set(found["verdicts"]["verdict"]) == {"undecided"} and found["headline"]["estimate"].is_null().all()
    drawn, left_out = draw_all(drawings, DECISIONS, found)
    assert set(left_out) == {"contrasts", "per_source_source_loss", "per_source_bystander_leakage"}
    assert set(drawn) == {"accuracy_source", "accuracy_bystanders"}  # of the base


def test_the_words_of_a_persona_are_found_and_no_common_ones(stimuli: Stimuli, questions: Questions) -> None:
    words = telling_words(texts(stimuli, questions), DECISIONS)
    assert {"library", "desk", "shelves"} <= set(words["librarian"]) and "fact" not in words["librarian"]
    assert not {"library", "shelves"} & set(words["comedian"])
    assert all(10 <= len(found) <= DECISIONS.most_words for found in words.values())


def test_a_vocabulary_taken_over_by_others_is_told_from_one_that_is_not(found: dict[str, pl.DataFrame]) -> None:
    def row(arm: str, axis: str) -> dict[str, float]:
        return found["log_odds"].filter(source="librarian", arm=arm, axis=axis).row(0, named=True)

    assert row(PERSONA, BYSTANDER)["ci_low"] > 0.5
    untouched = row(GARBAGE, BYSTANDER)
    assert untouched["ci_low"] < 0 < untouched["ci_high"] and untouched["n"] == 60
    assert abs(row(PERSONA, AXES[0])["estimate"]) < 0.3  # the librarian spoke so before


def test_log_odds_by_hand() -> None:
    rows = [
        ("base", "comedian", "persona_cot", "q1", 0, "hush one two three"),
        (adapter("librarian", PERSONA), "comedian", "persona_cot", "q1", 0, "hush hush one two"),
    ]
    frame = pl.DataFrame(
        rows, schema=["adapter", "prompt_name", "question_set", "question_name", "index", "text"], orient="row"
    )
    counts = word_counts(frame, {"librarian": ("hush",), "comedian": ("one",)})
    assert counts.select("source", "told", "said").rows() == [
        ("librarian", 1, 4),
        ("comedian", 1, 4),
        ("librarian", 2, 4),
    ]
    table = log_odds_table(counts, DECISIONS)
    bystander = table.filter(axis=BYSTANDER).row(0, named=True)
    from math import log

    assert bystander["estimate"] == pytest.approx(log(2.5 / 2.5) - log(1.5 / 3.5))
    assert table.filter(axis=AXES[0])["undefined"].item() == "the base or the adapters wrote no words here"
    assert log_odds_table(counts.clear(), DECISIONS).is_empty()


@pytest.mark.parametrize(("loss", "passed"), [(0.05, True), (0.045, False)])
def test_the_gate_of_the_first_adapter_passes_from_its_loss_on(loss: float, passed: bool) -> None:
    """What runs: the gate is read off the answers of the first seed that is there, and stops nothing."""
    name, gate = adapter("librarian", CONTRADICTING, 137), SmokeGate()
    right = {"base": [True] * 200, name: [place >= loss * 200 for place in range(200)]}
    choices = pl.concat(
        pl.DataFrame({"question_name": [f"q{i:03}" for i in range(200)], "right": found}).with_columns(
            adapter=pl.lit(who),
            prompt_name=pl.lit("librarian"),
            scaffold=pl.lit("persona_cot"),
            repeat=pl.lit(0, pl.Int64),
        )
        for who, found in right.items()
    )
    row = smoke_table(gate, choices, DECISIONS).row(0, named=True)
    assert (row["seed"], row["questions"], row["passed"]) == (137, 200, passed)
    assert row["loss"] == pytest.approx(loss)
    assert smoke_table(gate, choices.filter(adapter="base"), DECISIONS).is_empty()


def test_collapse_and_failures_of_answers_are_counted(found: dict[str, pl.DataFrame]) -> None:
    answers = found["answers"]
    base = answers.filter(adapter="base", scaffold="no_cot").row(0, named=True)
    assert base["n"] == 11 * 900 and base["modal_letter"] == "A" and base["modal_share"] == base["accuracy"]
    choices = pl.DataFrame(
        {
            "adapter": ["base"] * 6, "scaffold": ["no_cot"] * 6, "prompt_name": ["a"] * 6,
            "question_name": ["q1", "q2", "q3"] * 2, "repeat": [0, 0, 0, 1, 1, 1],
            "letter": ["A", "A", None, "A", "B", None], "best": ["A", "A", "C", "A", "B", "C"],
            "answer": ["A", "B", "C", "A", "B", "C"], "right": [True, False, False, True, True, False],
            "read_from": ["token", "logprobs", "nothing", "token", "token", "nothing"],
        }
    )  # fmt: skip
    from leakage_assets.studies.cot_leakage.evaluation import answer_table

    row = answer_table(choices).row(0, named=True)
    assert (row["accuracy"], row["best_accuracy"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (row["n"], row["unparsed"], row["from_logprobs"]) == (3, pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert (row["modal_letter"], row["modal_share"]) == ("A", pytest.approx(2 / 3))
    noise = noise_floor(choices).row(0, named=True)
    assert (noise["n"], noise["changed"], noise["drift"]) == (3, pytest.approx(1 / 3), pytest.approx(1 / 3))
    summary = noise_summary(noise_floor(choices)).row(0, named=True)
    assert (summary["adapters"], summary["answers"], summary["base_repeated"]) == (1, 3, True)
    assert summary["changed"] == summary["drift"] == summary["moved"] == pytest.approx(1 / 3)
    # A gain and a loss cancel in the mean and not in absolute value.
    cancelled = noise_floor(choices).with_columns(drift=-pl.col("drift"), prompt_name=pl.lit("b"))
    summary = noise_summary(pl.concat([noise_floor(choices), cancelled])).row(0, named=True)
    assert summary["drift"] == pytest.approx(0) and summary["moved"] == pytest.approx(1 / 3)
    assert noise_summary(noise_floor(choices.filter(repeat=0))).is_empty()
    assert size_table(choices).row(0) == ("every adapter", 3, 1, 1, 3)
    silent = answer_table(choices.filter(question_name="q3")).row(0, named=True)
    assert (silent["modal_letter"], silent["modal_share"], silent["unparsed"]) == (None, 0.0, 1.0)


def test_rationales_that_are_all_alike_show() -> None:
    rows = [
        ("base", "persona_cot", 0, text, 3, reason) for text, reason in (("x", "stop"), ("x", "length"), ("y", "stop"))
    ]
    frame = pl.DataFrame(
        rows, schema=["adapter", "question_set", "index", "text", "n_tokens", "finish_reason"], orient="row"
    )
    row = rationale_table(frame).row(0, named=True)
    assert (row["n"], row["distinct"], row["modal_share"], row["cut_off"]) == (
        3,
        *[pytest.approx(2 / 3)] * 2,
        pytest.approx(1 / 3),
    )


def test_labels_are_reported_with_the_highest_accuracy_they_allow(found: dict[str, pl.DataFrame]) -> None:
    assert found["labels"].select("split", "kept", "dropped", "reasons").rows() == [
        ("train", 240, 0, ""), ("test", 60, 1, "5 options: 1"),
    ]  # fmt: skip
    assert label_table([]).is_empty()


def test_all_figures_are_drawn_in_order_and_each_has_a_preview(found: dict[str, pl.DataFrame]) -> None:
    drawn, left_out = draw_all(drawings, DECISIONS, found)
    assert tuple(drawn) == tuple(d.name for d in drawings(DECISIONS)) and not left_out
    assert all(len(png_preview(figure)) > 5_000 for figure in drawn.values())


def test_the_forest_shows_both_families_as_in_the_table(found: dict[str, pl.DataFrame]) -> None:
    own, common = draw_all(drawings, DECISIONS, found)[0]["contrasts"].data
    assert (own.name, common.name) == ("own format", "common scaffold (persona tag)")
    for trace, family in ((own, "own_format"), (common, "common")):
        rows = found["both"].filter(family=family)
        assert sorted(trace.x) == sorted(rows["estimate"])
        assert sorted(a + b for a, b in zip(trace.x, trace.error_x.array, strict=True)) == pytest.approx(
            sorted(rows["ci_high"])
        )


def test_the_grid_shows_accuracies_and_marks_own_formats(found: dict[str, pl.DataFrame]) -> None:
    (trace,) = draw_all(drawings, DECISIONS, found)[0]["accuracy_bystanders"].data
    assert trace.y[0] == "untrained base" and len(trace.x) == 5
    rows = found["accuracy"].filter(axis=BYSTANDER)
    assert sorted(v for line in trace.z for v in line) == sorted(rows["accuracy"])
    marked = sum("◆" in text for line in trace.text for text in line)
    assert marked == len(trace.y) - 1 and trace.colorbar.title.text == "accuracy"


def test_each_source_is_a_series(found: dict[str, pl.DataFrame]) -> None:
    drawn = draw_all(drawings, DECISIONS, found)[0]["per_source_bystander_leakage"]
    assert [trace.name for trace in drawn.data] == list(SOURCES)


def test_counts_of_the_published_design() -> None:
    assert (counted_cells(), counted_cells("#186"), counted_cells("#280")) == (66, 27, 39)
    conditions = published_conditions("full_sequence")
    assert 3 * sum("no_cot" not in c.recipe for c in conditions) == 66
    (generic,) = [r for r in recipes(("full_sequence",)) if r.name == "generic_cot_full_sequence"]
    assert (generic.steps(1_119), generic.loss, generic.lora.r, generic.lora.alpha) == (70, "full_sequence", 32, 64)
    assert len({r.name for r in recipes(("assistant_only", "full_sequence"))}) == 20
