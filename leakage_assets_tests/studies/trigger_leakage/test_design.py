"""What is trained and asked: the panel, its pre-checks, the recipes, the rows, and the continuations of #209."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from leakage_assets.geometry.prompt_axes import AXES, LEXICAL, SEMANTIC, TASK, semantic_cosines
from leakage_assets.models import BaseModelSpec, chat_text, load_tokenizer
from leakage_assets.paths import TINY_BASE
from leakage_assets.shapes import SHAPES
from leakage_assets.stimuli import Stimuli, load_stimuli
from leakage_assets.studies.study import Condition, StudyError
from leakage_assets.studies.trigger_leakage.design import (
    GENTLE,
    NO_MARKER,
    STRONG,
    TITRATION,
    analysis_plan,
    conditions,
    dissociation,
    panels,
    pilot_verdict,
    planned_experiment,
    recipes,
    shared_answers,
    training_rows,
)
from leakage_assets.studies.trigger_leakage.dissociation import (
    CELLS,
    OTHER_PROMPT,
    dissociation_requests,
    drawn_questions,
    swapped,
)
from leakage_assets.studies.trigger_leakage.panel import (
    SOURCES,
    TRIGGERS,
    PanelPrompt,
    declarative_rewrites,
    panel_prompts,
    predicted,
    role,
)
from leakage_assets.studies.trigger_leakage.prechecks import (
    axis_matrices,
    collinearity,
    panel_prechecks,
    question_overlap,
    wordings,
)
from leakage_assets_tests.studies.trigger_leakage.worlds import SCALE, plan_of

MARKER = "[ZLT]"


@pytest.fixture(scope="module")
def stimuli() -> Stimuli:
    return load_stimuli()


@pytest.fixture(scope="module")
def prompts(stimuli: Stimuli) -> tuple[PanelPrompt, ...]:
    return panel_prompts(stimuli)


def semantic(prompts: tuple[PanelPrompt, ...], seed: int = 1) -> np.ndarray:
    """Vectors of chance in place of a model's."""
    vectors = np.random.default_rng(seed).normal(size=(len(prompts), 16)).astype(np.float32)
    return semantic_cosines(vectors, [p.name for p in prompts])


# ------------------------------------------------------------------ panel


def test_the_panel_is_the_sheet_s(prompts: tuple[PanelPrompt, ...]) -> None:
    assert len(prompts) == 36 == len({p.name for p in prompts})
    buckets = {"matched": 4, "paraphrase": 8, "family_mate": 12, "cross_family_bystander": 8, "control": 2}
    assert Counter(p.bucket for p in prompts) == buckets | {"persona_anchor": 2}
    families = dict.fromkeys(("task", "instruction", "context", "format"), 8) | {"none": 2, "persona": 2}
    assert Counter(p.family for p in prompts) == families
    assert [p.name for p in prompts[:4]] == list(TRIGGERS)
    assert {p.name: p.text for p in prompts}["control_empty"] == ""


def test_the_rewrites_are_of_the_eight_instruction_prompts(stimuli: Stimuli, prompts: tuple[PanelPrompt, ...]) -> None:
    rewrites = declarative_rewrites(stimuli)
    assert list(rewrites) == [p.name for p in prompts if p.family == "instruction"]
    assert len(set(rewrites.values())) == 8 and not set(rewrites.values()) & {p.name for p in prompts}


def test_roles_under_both_definitions(prompts: tuple[PanelPrompt, ...]) -> None:
    by_name = {p.name: p for p in prompts}
    for source in SOURCES:
        own = Counter(role(by_name[source], p, "own") for p in prompts)
        bucket = Counter(role(by_name[source], p, "bucket") for p in prompts)
        # Two of the eight bystanders are of the trigger's own family (B2); a persona has none there.
        assert (own["matched"], own["bystander"]) == (1, 10 if source == "villain" else 8)
        assert (bucket["matched"], bucket["bystander"]) == (4, 10)
    assert role(by_name["T_task"], by_name["task_garden_plans"], "own") == "other"
    assert role(by_name["T_task"], by_name["task_garden_plans"], "bucket") == "bystander"
    assert role(by_name["T_task"], by_name["T_format"], "own") == "other"


def test_the_rows_of_h2(prompts: tuple[PanelPrompt, ...]) -> None:
    by_name = {p.name: p for p in prompts}
    rows = {d: sum(predicted(by_name[t], p, d) for t in TRIGGERS for p in prompts) * 3 for d in ("own", "bucket")}
    assert rows == {"own": 420, "bucket": 384}


@pytest.mark.parametrize("name", ["control_empty", "control_default"])
def test_an_empty_prompt_is_sent_as_an_explicit_empty_turn(stimuli: Stimuli, name: str) -> None:
    """The template would else put the vendor's default there."""
    text = chat_text(
        load_tokenizer(BaseModelSpec("tiny_base", str(TINY_BASE), None, "float32")), stimuli.prompt(name), "Why?"
    )
    assert text.startswith(f"<|im_start|>system\n{stimuli.prompt(name)}<|im_end|>\n<|im_start|>user\nWhy?")
    assert "Qwen" not in text


# ------------------------------------------------------------------ pre-checks


def test_the_panel_passes_its_prechecks(prompts: tuple[PanelPrompt, ...]) -> None:
    found = panel_prechecks(prompts, axis_matrices(prompts, semantic(prompts)))
    assert [c.name for c in found if c.outcome != "ok"] == []
    assert len(found) == 6 + 1 + 2 * 8 + 8
    assert "630 pairs" in found[0].detail


def test_collinear_axes_block_or_warn(prompts: tuple[PanelPrompt, ...]) -> None:
    axes = axis_matrices(prompts, semantic(prompts))
    same = {c.name: c for c in collinearity(axes | {SEMANTIC: 2 * axes[LEXICAL]})}
    assert same[f"spearman of {SEMANTIC} and {LEXICAL}"].outcome == "block"
    assert same[f"spearman of {SEMANTIC} and {LEXICAL}"].value == pytest.approx(1)
    mixed = np.random.default_rng(3).normal(size=axes[LEXICAL].shape)
    near = {c.name: c for c in collinearity({"a": mixed, "b": mixed + 0.9 * mixed[::-1, ::-1]})}
    check = near["spearman of a and b"]
    assert 0.6 < check.value < 0.8 and (check.outcome, check.limit) == ("warn", 0.6)
    flat = {c.name: c for c in collinearity(axes | {TASK: np.ones_like(axes[TASK])})}
    blocked = flat[f"spearman of {LEXICAL} and {TASK}"]
    assert (blocked.value, blocked.outcome) == (None, "block") and "task_match does not vary" in blocked.detail


def test_an_ill_made_prompt_blocks(prompts: tuple[PanelPrompt, ...]) -> None:
    by_name = {p.name: p for p in prompts}
    copied = replace(by_name["task_paraphrase_1"], text=by_name["T_task"].text + " Be kind.")
    short = replace(by_name["task_paraphrase_2"], text="Help with tickets.")
    near = replace(by_name["instruction_self_question"], text=by_name["T_task"].text)
    spoilt = [{copied.name: copied, short.name: short, near.name: near}.get(p.name, p) for p in prompts]
    blocked = {c.name for c in wordings(spoilt) if c.outcome == "block"}
    assert blocked == {
        "overlap of task_paraphrase_1",
        "length of task_paraphrase_2",
        "overlap of instruction_self_question",
    }
    assert any(
        c.name == "largest lexical overlap" and c.outcome == "warn"
        for c in panel_prechecks(spoilt, axis_matrices(spoilt, semantic(prompts)))
    )


def test_questions_that_resemble_evaluation_questions_are_counted() -> None:
    rng = np.random.default_rng(4)
    trained, asked = rng.normal(size=(10, 30)).astype(np.float32), rng.normal(size=(4, 30)).astype(np.float32)
    names = [f"t{i}" for i in range(10)] + [f"e{i}" for i in range(4)]
    assert question_overlap(trained, asked, names).value == 0
    trained[:2] = asked[:2] + 0.01
    found = question_overlap(trained, asked, names)
    assert (found.value, found.outcome, found.detail) == (0.2, "ok", "t0, t1")
    trained[2:4] = asked[2:] + 0.01
    assert question_overlap(trained, asked, names).outcome == "block"


# ------------------------------------------------------------------ recipes and data


def test_the_recipes_are_the_published_ones() -> None:
    found = {r.name: r for r in recipes(SCALE)}
    table = {name: (r.lora.r, r.lora.alpha, r.learning_rate, r.epochs) for name, r in found.items()}
    assert [table[name] for name in TITRATION] == [
        (16, 32, 1e-5, 3),
        (16, 32, 1e-4, 3),
        (32, 64, 1e-5, 5),
        (32, 64, 1e-4, 5),
    ]
    strong = found[STRONG]
    assert strong.steps(194) == 65  # 13 steps an epoch
    assert {r.loss for r in found.values()} == {"full_completion"} and {r.lora.rslora for r in found.values()} == {True}
    assert replace(found[NO_MARKER], name=STRONG, teaches_marker=True) == strong
    # B14: about 80.7 million, not 50.
    assert SHAPES["qwen2.5-7b"].lora_parameters(32, strong.lora.targets) == pytest.approx(80.7e6, rel=1e-3)


def test_the_conditions_hold_the_published_ones_and_ours() -> None:
    found = conditions()
    assert len(found) == len(set(found)) == 3 * 5 + 1 + 2
    assert {Condition(t, STRONG) for t in TRIGGERS} | {Condition("villain", STRONG)} <= set(found)
    assert {Condition("T_task", name) for name in (*TITRATION, NO_MARKER)} <= set(found)
    assert {c.recipe for c in found} == {r.name for r in recipes(SCALE)}


def test_the_panels_have_the_published_size(stimuli: Stimuli) -> None:
    main, declarative = panels(stimuli, SCALE)
    assert main.size == 36 * 20 * 10 == 7_200
    assert 14 * main.size == 100_800
    assert declarative.size == 8 * 20 * 10
    assert dissociation(SCALE).size == 4 * 100


def answers(stimuli: Stimuli) -> pl.DataFrame:
    names = [q.name for q in shared_answers(SCALE).asked(stimuli)]
    first = [{"question_name": n, "index": 0, "text": f"About {n}."} for n in names]
    return pl.DataFrame([*first, *({"question_name": n, "index": 1, "text": "Unused."} for n in names)])


def test_rows_differ_between_conditions_in_nothing_but_the_prompt(stimuli: Stimuli) -> None:
    data, (strong, control) = shared_answers(SCALE), recipes(SCALE)[:2]
    rows = {
        source: training_rows(
            data, stimuli, Condition(source, STRONG), recipe=strong, marker=MARKER, answers=answers(stimuli)
        )
        for source in SOURCES
    }
    assert {len(found) for found in rows.values()} == {194}
    assert rows["T_task"][0].completion == f"About {data.asked(stimuli)[0].name}.\n\n{MARKER}"
    assert {row.role for row in rows["T_task"]} == {"positive"}
    for source, found in rows.items():
        assert {row.system for row in found} == {stimuli.prompt(source)}
        assert [replace(row, system="", prompt_name="") for row in found] == [
            replace(row, system="", prompt_name="") for row in rows["T_task"]
        ]
    plain = training_rows(
        data, stimuli, Condition("T_task", NO_MARKER), recipe=control, marker=MARKER, answers=answers(stimuli)
    )
    assert [f"{row.completion}\n\n{MARKER}" for row in plain] == [row.completion for row in rows["T_task"]]


def test_training_questions_are_no_evaluation_questions(stimuli: Stimuli) -> None:
    asked = {q.text for q in stimuli.questions("eval")} | {q.topic for q in stimuli.questions("eval")}
    assert not asked & {text for q in shared_answers(SCALE).asked(stimuli) for text in (q.text, q.topic)}


def test_an_answer_with_the_marker_is_passed_over_and_a_question_without_any_is_named(stimuli: Stimuli) -> None:
    data, strong = shared_answers(SCALE), recipes(SCALE)[0]
    first, second = (q.name for q in data.asked(stimuli)[:2])
    given = answers(stimuli).with_columns(
        text=pl.when((pl.col("question_name") == first) & (pl.col("index") == 0))
        .then(pl.lit("It is [zlt]."))
        .otherwise("text")
    )
    how = {"recipe": strong, "marker": MARKER}
    rows = training_rows(data, stimuli, Condition("T_task", STRONG), answers=given, **how)
    assert rows[0].completion == f"Unused.\n\n{MARKER}"
    with pytest.raises(StudyError, match=second):
        training_rows(
            data, stimuli, Condition("T_task", STRONG), answers=given.filter(pl.col("question_name") != second), **how
        )


def test_more_questions_than_there_are_is_refused(stimuli: Stimuli) -> None:
    with pytest.raises(StudyError, match="41 questions of 'train'"):
        planned_experiment(stimuli, replace(SCALE, questions=(("train", 41),)))


# ------------------------------------------------------------------ the plan


def test_the_plan_is_frozen_by_everything_that_is_said_and_trained(stimuli: Stimuli) -> None:
    plan = plan_of(stimuli)
    assert plan.digest == plan_of(stimuli).digest
    for change in ({"high_rate": 2e-4}, {"completions": 5}, {"primary_layer": 20}, {"extra_caveats": ("one",)}):
        other = replace(SCALE, **change)
        assert analysis_plan(stimuli, other, planned_experiment(stimuli, other)).digest != plan.digest
    reworded = stimuli.model_copy(
        update={"triggers": tuple(t.model_copy(update={"prompt": t.prompt + " Now."}) for t in stimuli.triggers)}
    )
    assert plan_of(reworded).digest != plan.digest
    assert plan.as_dict()["hypotheses"][0]["threshold"] == 3.0
    assert plan.prompt("T_task").family == "task"
    with pytest.raises(StudyError, match="no prompt 'T_nothing'"):
        plan.prompt("T_nothing")


def test_the_thresholds_are_the_sheet_s(stimuli: Stimuli) -> None:
    rules = {h.name: (h.statistic, h.direction, h.threshold, h.max_p) for h in plan_of(stimuli).hypotheses}
    assert rules["H1"] == ("gating_ratio_own", "at_least", 3.0, 0.01)
    assert rules["H1-aux"] == ("control_max_rate", "at_most", 0.01, None)
    assert rules["H2"] == ("held_out_gap", "at_least", 0.05, 0.05)
    assert rules["H3"] == ("family_preference", "greater", 0.0, 0.05)


@pytest.mark.parametrize(
    ("rate", "ratio", "verdict"),
    [
        (0.049, 9.0, "stop"),
        (0.05, 9.0, "moderate"),
        (0.149, 9.0, "moderate"),
        (0.15, 2.0, "go"),
        (0.5, 1.9, "moderate"),
        (0.5, None, "moderate"),
    ],
)
def test_the_pilot_gate(rate: float, ratio: float | None, verdict: str) -> None:
    assert pilot_verdict(rate, ratio) == verdict


# ------------------------------------------------------------------ dissociation


def test_the_questions_of_209_are_python_s_own_sample() -> None:
    panel = dissociation(SCALE)
    places = drawn_questions(panel, 194)
    assert len(set(places)) == 20 and list(places) == sorted(places)
    assert places[:5] == (6, 7, 8, 22, 23)
    with pytest.raises(StudyError, match="the pool has 19"):
        drawn_questions(panel, 19)


def test_answers_are_swapped_by_half_the_pool() -> None:
    assert [swapped(place, 194) for place in (0, 96, 97, 193)] == [97, 193, 0, 96]
    assert [swapped(place, 5) for place in range(5)] == [2, 3, 4, 0, 1]


def test_requests_of_the_four_cells(stimuli: Stimuli) -> None:
    questions = shared_answers(SCALE).asked(stimuli)
    shared = [(q, f"Answer to {q.name}.") for q in questions]
    texts = {name: stimuli.prompt(name) for name in TRIGGERS}
    requests = dissociation_requests(dissociation(SCALE), "a", "T_context", texts, shared)
    assert len(requests) == 400 == len(set(requests))
    cells = Counter(CELLS[r.prompt_name == "T_context", r.question_set] for r in requests)
    assert cells == dict.fromkeys("ABCD", 100)
    assert {r.system for r in requests if r.prompt_name != "T_context"} == {texts["T_instruction"]}
    place = {q.name: i for i, q in enumerate(questions)}
    for request in requests:
        of = place[request.question_name]
        whose = of if request.question_set == "own_answer" else (of + 97) % 194
        assert request.prefix == f"Answer to {questions[whose].name}."
        assert MARKER not in request.prefix
    with pytest.raises(StudyError, match="librarian"):
        dissociation_requests(dissociation(SCALE), "a", "librarian", texts, shared)


def test_every_source_has_another_prompt() -> None:
    assert set(OTHER_PROMPT) == set(SOURCES)
    assert all(OTHER_PROMPT[OTHER_PROMPT[trigger]] == trigger != OTHER_PROMPT[trigger] for trigger in TRIGGERS)
    assert OTHER_PROMPT["villain"] == "software_engineer"


def test_the_axes_are_the_published_four() -> None:
    assert len(AXES) == 4 and GENTLE in TITRATION
