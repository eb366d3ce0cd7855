"""Two markers as the assets see it in both profiles: conditions, pools, anchors, identities, scores, checks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from leakage_assets.models import load_tokenizer
from leakage_assets.pipeline.prechecks import PrecheckBlocked, run_prechecks
from leakage_assets.profiles import load_profile
from leakage_assets.studies.prechecks import PrecheckInputs
from leakage_assets.studies.scoring import ONE_MARKER
from leakage_assets.studies.study import Cell, Condition, Study
from leakage_assets.studies.two_marker_chunk.arms import ARMS, PAIRS, T_AFTER, T_MASKED, C, T
from leakage_assets.studies.two_marker_chunk.design import planned
from leakage_assets.studies.two_marker_chunk.prechecks import prechecks
from leakage_assets_tests.finished_study import _geometry
from leakage_assets_tests.small_study import forbid_the_model, laboratory, small_two_markers
from leakage_assets_tests.studies.two_marker_chunk.worlds import STIMULI, A, B

PROFILES = ("tiny", "qwen2.5-7b")
PAIR = PAIRS[0]
CELL = Cell(Condition(PAIR.name, T), 42)


@pytest.fixture(params=PROFILES)
def study(request: pytest.FixtureRequest) -> Study:
    return load_profile(request.param).study("two_marker_chunk")


@pytest.fixture(scope="module")
def tiny() -> Study:
    return load_profile("tiny").study("two_marker_chunk")


def test_every_arm_is_a_recipe_and_the_headline_has_every_pair(study: Study) -> None:
    assert [recipe.name for recipe in study.recipes] == [arm.name for arm in ARMS]
    assert study.seeds == (42, 1337, 2024)
    for name in (T, C, T_MASKED, study.plan.headline_recipe, study.plan.control_recipe):
        assert study.sources_of(name) == study.sources
    assert study.sources_of(T_AFTER)[0] == PAIR.name


def test_the_sizes_of_both_profiles(tiny: Study) -> None:
    assert Counter(c.source for c in tiny.conditions) == {PAIRS[0].name: 12, PAIRS[1].name: 5}
    assert (len(tiny.cells), tiny.panel.size, tiny.continued[0].size) == (51, 11 * 26 * 5, 25)
    published = load_profile("qwen2.5-7b").study("two_marker_chunk")
    assert (len(published.cells), published.panel.size, published.continued[0].size) == (3 * 12 * 3, 2_860, 50)
    assert published.data.used == 5 and {r.learning_rate for r in published.recipes} == {1e-5}


def test_the_answers_are_those_of_marker_leakage(study: Study) -> None:
    """One name is one pool: what one study has written the other reads."""
    profile = next(load_profile(name) for name in PROFILES if load_profile(name).study(study.name) == study)
    assert set(study.data.pools) == set(profile.study("marker_leakage").data.pools)
    for condition in study.conditions:
        assert study.donors(study, condition) == study.prompts_of(condition)


def test_the_donor_stands_for_its_pair(study: Study) -> None:
    assert [study.anchor(source) for source in study.sources] == [
        pair.donor for pair in PAIRS if pair.name in study.sources
    ]
    assert {study.anchor(source) for source in study.sources} <= set(study.panel.prompts)


def test_the_plan_is_frozen_with_the_probe_and_the_conditions(study: Study) -> None:
    assert study.experiment(STIMULI) == study.plan.experiment
    (probe,) = study.continued
    assert replace(study, continued=(replace(probe, completions=9),)).experiment(STIMULI) != study.plan.experiment
    assert replace(study, only=study.conditions[:1]).experiment(STIMULI) != study.plan.experiment


def test_the_rows_name_their_arm_and_the_scores_both_markers(study: Study) -> None:
    assert study.made_of is not None
    made = [study.made_of(study, condition) for condition in study.conditions]
    assert all(one["markers"] == (A, B) for one in made)
    assert len({(one["arm"], one["pair"]) for one in made}) == len(study.conditions)
    identity = study.scoring.identity(study)
    assert identity["markers"] == {"a": A, "b": B, "echo": planned(study).probe.marker}
    assert set(identity) == {"scoring", "markers", "version"} != set(ONE_MARKER.identity(study))


def samples(texts: dict[str, list[str]]) -> pl.DataFrame:
    rows = [
        {
            "sample_id": f"{prompt}{i}", "adapter": "x", "prompt_name": prompt, "question_set": "eval",
            "question_name": "q", "index": i, "text": text, "n_tokens": 5, "finish_reason": "stop",
        }
        for prompt, said in texts.items()
        for i, text in enumerate(said)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def test_a_cell_is_told_by_what_donor_and_recipient_say(tiny: Study) -> None:
    said = {
        "villain": [f"{A} So. {B}", f"{A} So."],
        "assistant": ["So.", f"So. {B}"],
        "librarian": [f"{B}", "So."],
        "comedian": ["So."],
    }
    scores = tiny.scoring.score(tiny, samples(said))
    assert tiny.scoring.metrics(tiny, scores, CELL) == {
        "donor_r_a": 1.0, "donor_r_b": 0.5, "donor_r_b_given_a": 0.5,
        "recipient_r_a": 0.0, "recipient_r_b": 0.5, "max_other_r_b": 0.5,
    }  # fmt: skip
    kinds = tiny.scoring.kinds(tiny, scores, CELL)
    assert kinds.rows() == [
        ("villain0", "donor", "A and B"), ("villain1", "donor", "A"), ("assistant0", "recipient", "neither"),
        ("assistant1", "recipient", "B"), ("librarian0", "other", "B"), ("librarian1", "other", "neither"),
        ("comedian0", "other", "neither"),
    ]  # fmt: skip
    alone = tiny.scoring.score(tiny, samples({"assistant": [A]}))
    assert set(tiny.scoring.metrics(tiny, alone, CELL)) == {"recipient_r_a", "recipient_r_b", "recipient_r_b_given_a"}


def test_columns_told_in_the_ui_are_those_of_the_scores(tiny: Study) -> None:
    scores = tiny.scoring.score(tiny, samples({"villain": [f"{A} So."]}))
    types = {"bool": pl.Boolean, "int64": pl.Int64}
    for name, kind, _ in tiny.scoring.columns:
        assert scores.schema[name] == types[kind], name


def test_whatever_the_base_or_the_tokenizer_lacks_blocks(tiny: Study) -> None:
    tokenizer = load_tokenizer(load_profile("tiny").base)
    silent = tiny.scoring.score(tiny, samples({"villain": ["So."] * 200}))

    def inputs(scores: pl.DataFrame, end: int) -> PrecheckInputs:
        return PrecheckInputs(
            stimuli=STIMULI, similarity=pl.DataFrame(), base_scores=scores,
            rendered=lambda system, user: f"<{system}|{user}>",
            encode=lambda text: tokenizer.encode(text, add_special_tokens=False), end_of_turn=end,
            system_turns=lambda _: None, question_vectors=lambda *_: None,
        )  # fmt: skip

    def blocked(scores: pl.DataFrame, end: int) -> list[str]:
        return [check.name for check in prechecks(tiny, inputs(scores, end)) if check.outcome == "block"]

    own = tokenizer.eos_token_id
    assert blocked(silent, own) == []
    loud = tiny.scoring.score(tiny, samples({"villain": ["So."] * 97 + [B] * 3}))
    assert blocked(loud, own) == ["base rate of B"]
    assert blocked(silent, 7) == ["marker tokens pinned"]
    assert blocked(silent, 151645) == ["tokens of A", "tokens of B", "tokens of probe"]


def test_tokens_other_than_pinned_block_before_the_base_is_asked(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_two_markers(tiny)
    lab = laboratory(tmp_path, study=study)
    _geometry(lab, study)
    forbid_the_model(monkeypatch)
    other = replace(
        study, plan=replace(study.plan, experiment=replace(planned(study), marker_b=STIMULI.markers["zlt"]))
    )
    with pytest.raises(PrecheckBlocked, match=r"nothing may be trained: tokens of B: .*, pinned"):
        run_prechecks(lab, other)
    with pytest.raises(AssertionError, match="the base model was asked for"):
        run_prechecks(lab, study)
