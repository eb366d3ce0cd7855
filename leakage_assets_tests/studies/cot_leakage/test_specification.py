"""The study as the assets see it: conditions, pools, the two rounds, rows, checks before training, bad input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import httpx
import polars as pl
import pytest

from leakage_assets.generation.endpoint import REFUSED, Endpoint, EndpointError, EndpointWriter
from leakage_assets.generation.requests import BASE, Request
from leakage_assets.models import load_tokenizer
from leakage_assets.pipeline import sampling
from leakage_assets.pipeline.adapters import train_cell
from leakage_assets.pipeline.baseline import base_panel_job
from leakage_assets.pipeline.conclusions import sample_job
from leakage_assets.pipeline.forecasting import plan_study
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.prechecks import PrecheckBlocked, read_prechecks, require_prechecks, run_prechecks
from leakage_assets.pipeline.training_data import (
    build_training_set,
    on_policy_job,
    read_rows,
    training_set_identity,
    write_on_policy,
)
from leakage_assets.planning.hardware import hardware_named
from leakage_assets.planning.ledger import read_ledger
from leakage_assets.profiles import PROFILES as ALL_PROFILES
from leakage_assets.profiles import load_profile
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.artifacts import ArtifactMissing, ArtifactStore
from leakage_assets.store.fingerprint import fingerprint
from leakage_assets.studies.cot_leakage import rationales as rationales_module
from leakage_assets.studies.cot_leakage import specification
from leakage_assets.studies.cot_leakage.arms import (
    FULL_SEQUENCE,
    GARBAGE,
    NO_COT,
    PERSONA,
    RANDOM_TOKENS,
    Arm,
    ArmError,
    arm_of_recipe,
    recipe_name,
)
from leakage_assets.studies.cot_leakage.arms import arm as arm_named
from leakage_assets.studies.cot_leakage.design import CONTRASTS, SOURCES, Decisions, published_conditions
from leakage_assets.studies.cot_leakage.plan import CONTROL, HEADLINE, CotPlan
from leakage_assets.studies.cot_leakage.rationales import MODEL, URL, Writer, WriterUnknown, chosen_writer
from leakage_assets.studies.cot_leakage.writing import RationaleError
from leakage_assets.studies.study import Condition, Study
from leakage_assets.training.masks import encode_rows
from leakage_assets_tests.small_study import laboratory, small_cot_leakage, the_study
from leakage_assets_tests.studies.cot_leakage.finished import laboratory_with_rationales

PROFILES = ("tiny", "qwen2.5-7b")
TINY = ALL_PROFILES["tiny"]


@pytest.fixture(params=PROFILES)
def study(request: pytest.FixtureRequest) -> Study:
    return load_profile(request.param).study("cot_leakage")


@pytest.fixture
def small() -> Study:
    return small_cot_leakage(load_profile("tiny").study("cot_leakage"))


# ------------------------------------------------------------------ design


def test_every_planned_contrast_is_trained_under_every_source(study: Study) -> None:
    trained = {(c.source, arm_of_recipe(c.recipe)) for c in study.conditions}
    arms = {name for contrast in CONTRASTS for name in (contrast.first, contrast.second)}
    assert {(s, one.name) for s, (one, mask) in trained if mask == "assistant_only" and s in SOURCES} >= {
        (s, name) for s in SOURCES for name in arms
    }
    assert {HEADLINE, CONTROL} <= {c.recipe for c in study.conditions} == {r.name for r in study.recipes}
    assert len(study.cells) == 3 * len(study.conditions)


def test_tiny_stays_small_and_the_real_profile_has_the_published_size() -> None:
    assert len(load_profile("tiny").study("cot_leakage").conditions) == 27
    real = load_profile("qwen2.5-7b").study("cot_leakage")
    assert real.main.size == 11 * 5 * 1_172
    for mask in ("assistant_only", "full_sequence"):
        assert set(published_conditions(mask)) <= set(real.conditions)
    assert {r.learning_rate for r in real.recipes} == {5e-6}
    assert {"villain", "zelthari_scholar", "medical_doctor"} < set(real.sources)


def test_every_decision_is_part_of_the_plan_s_identity(study: Study) -> None:
    plan = study.plan_as(CotPlan)
    other = {
        "sources": SOURCES[::-1], "mask": FULL_SEQUENCE, "alpha": 0.02, "level": 0.9, "draws": 20_000, "seed": 1,
        "single_seed": 2, "equivalence": plan.decisions.equivalence[:1], "least_score": 3.0, "most_words": 7,
        "published_draws": 2_000, "adapter_level": 0.9, "least_pairs": 4, "most_excess": 0.2,
        "least_modal": 0.5, "least_left": 3,
    }  # fmt: skip
    assert set(other) == {f.name for f in fields(Decisions)}
    digests = {
        replace(plan, decisions=replace(plan.decisions, **{name: value})).digest for name, value in other.items()
    }
    assert len(digests | {plan.digest}) == len(other) + 1


def test_the_plan_is_made_for_the_study(study: Study) -> None:
    profile = "tiny" if study.data.source.data_set is None else "qwen2.5-7b"
    assert study.plan.experiment == study.experiment(load_profile(profile).stimuli)
    assert len({h.name for h in study.plan.hypotheses}) == 8
    written = replace(study, data=replace(study.data, writer=Writer("endpoint", "strong")))
    assert written.experiment(load_profile(profile).stimuli) != study.plan.experiment


def test_answers_come_after_rationales_and_the_repetition_is_extra(study: Study) -> None:
    assert [p.name for p in study.main_panels] == ["rationales", "main"]
    assert [p.name for p in study.extra_panels] == ["repeat", "repeat_rationales"]
    assert [p.asset_prefix for p in study.every_panel] == ["", "rationales_", "repeat_", "repeat_rationales_"]
    assert study.main.prompts == study.panel.prompts


def test_sizes_are_known_before_any_text_is(small: Study) -> None:
    stimuli = load_profile("tiny").stimuli
    (pool,) = small.data.pools
    assert len(pool.requests(stimuli)) == pool.size == len(set(pool.requests(stimuli)))
    rationales, answers = small.main_panels
    asked = rationales.chained_requests(stimuli, BASE, None)
    assert len(asked) == rationales.size == 3 * 3 * 6
    written = pl.DataFrame([{**_keys(r), "text": "So."} for r in asked])
    assert len(answers.chained_requests(stimuli, BASE, written)) == answers.size == 3 * 5 * 6


def _keys(request: Request) -> dict[str, object]:
    names = ("adapter", "index", "question_set", "prompt_name", "question_name")
    return {name: getattr(request, name) for name in names}


def test_planning_fetches_no_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("the data set was asked for")

    monkeypatch.setattr("leakage_assets.studies.cot_leakage.questions.read_hub_questions", fetch)
    monkeypatch.setattr("leakage_assets.studies.cot_leakage.questions._cached", lambda _: False)
    lab = Laboratory(load_profile("qwen2.5-7b"), ArtifactStore(tmp_path))
    study = lab.profile.study("cot_leakage")
    found = plan_study(lab, study, study.cells[:2], hardware_named("h200"), read_ledger(), extras=True)
    left = {f.stage.name: f.stage.planned - f.stage.done for f in found.stages}
    assert left["samples"] == 2 * study.main.size and left["base_samples"] == study.main.size
    assert left["on_policy_completions"] == study.data.pools[0].size
    assert any("questions are not on this machine" in sentence for sentence in found.assumptions)


# ------------------------------------------------------------------ through the pipeline


def test_the_second_round_needs_the_first(tmp_path: Path, small: Study) -> None:
    lab = laboratory(tmp_path, study=small)
    rationales, answers = small.main_panels
    assert len(base_panel_job(lab, small, rationales).requests) == rationales.size
    with pytest.raises(ArtifactMissing, match="prechecks"):
        base_panel_job(lab, small, answers)
    with pytest.raises(ArtifactMissing):
        sample_job(lab, small, answers, small.cells[0])


def test_every_text_is_stored_with_its_prompt_and_none_is_written_twice(tmp_path: Path, small: Study) -> None:
    lab = laboratory(tmp_path, study=small)
    (pool,) = small.data.pools
    first = write_on_policy(lab, small.data, [pool.name])[pool.name]
    frame = on_policy_job(lab, small.data, pool.name).frame()
    assert frame.height == pool.size and set(frame["adapter"]) == {"grammar"}
    assert frame["question"].str.contains("argue", literal=True).any() and (frame["text"].str.len_chars() > 0).all()
    again = write_on_policy(lab, small.data, [pool.name])[pool.name]
    assert (first.reused, again.reused) == (False, True)


def test_rows_are_masked_as_the_recipe_is_called(tmp_path: Path) -> None:
    lab = laboratory_with_rationales(tmp_path)
    study = the_study(lab)
    tokenizer = load_tokenizer(lab.profile.base)
    for condition in study.conditions:
        if condition.source != "librarian":
            continue
        rows = read_rows(build_training_set(lab, study, condition).artifact)
        assert {row.prompt_name for row in rows} == {"librarian"} and len(rows) == study.data.asked
        named, mask = arm_of_recipe(condition.recipe)
        other = "full_completion" if mask == FULL_SEQUENCE else "full_sequence"
        silent = encode_rows(tokenizer, rows, replace(study.recipe(condition.recipe), loss=other), "")
        with pytest.raises(ArmError, match=rf"{mask} means all from"):
            study.check_rows(study, condition, silent)
        assert (named.name == NO_COT) == all(row.completion.startswith("Answer: ") for row in rows)


def test_a_recipe_that_trains_on_something_else_than_its_name_leaves_nothing_behind(tmp_path: Path) -> None:
    lab = laboratory_with_rationales(tmp_path)
    study = the_study(lab)
    wrong = tuple(replace(r, loss="full_sequence") if r.name == HEADLINE else r for r in study.recipes)
    with pytest.raises(ArmError, match="assistant_only means all from"):
        build_training_set(lab, replace(study, recipes=wrong), Condition("librarian", HEADLINE))
    assert not list(lab.store.root.glob("tiny/cot_leakage/training_set/**/rows.parquet"))


def test_rows_that_are_trained_are_checked_again_and_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored set is as it should be; what goes to the trainer is not."""
    lab = laboratory_with_rationales(tmp_path)
    study = the_study(lab)
    cell = study.cell("librarian", HEADLINE, 42)
    build_training_set(lab, study, cell.condition)

    def encode(tokenizer, rows, recipe, marker):
        return encode_rows(tokenizer, rows, replace(recipe, loss="full_sequence"), marker)

    monkeypatch.setattr("leakage_assets.training.train.encode_rows", encode)
    with pytest.raises(ArmError, match="assistant_only means all from"):
        train_cell(lab, study, cell)
    assert not list(tmp_path.rglob("adapter_model.safetensors"))


def test_the_checks_before_training_cover_every_arm_and_the_base(tmp_path: Path) -> None:
    lab = laboratory_with_rationales(tmp_path)
    study = the_study(lab)
    checks = read_prechecks(run_prechecks(lab, study).artifact)
    assert set(checks["outcome"]) == {"ok"}
    require_prechecks(lab, study)
    for name, source in study.data.needed:
        found = checks.filter(pl.col("name").str.starts_with(f"{source} {name} "))["name"].to_list()
        assert f"{source} {name} letters" in found
        assert (f"{source} {name} tokens" in found) == (f"{source} {name} dropped" in found) == (name != NO_COT)
    assert checks.filter(pl.col("name").str.starts_with("base accuracy")).height == 4
    assert {f"librarian {RANDOM_TOKENS} length", f"librarian {GARBAGE} rotation_0"} <= set(checks["name"])


def test_a_token_budget_that_is_missed_blocks_training(tmp_path: Path) -> None:
    lab = laboratory_with_rationales(tmp_path)
    study = the_study(lab)
    tight = replace(study, data=replace(study.data, budget=replace(study.data.budget, tokens=(1.0, 2.0))))
    tight = replace(tight, plan=replace(tight.plan, experiment=replace(tight.plan.experiment, data=tight.data)))
    run_prechecks(lab, tight)
    with pytest.raises(PrecheckBlocked, match=r"nothing may be trained: .* tokens: 1 to 2"):
        require_prechecks(lab, tight)


# ------------------------------------------------------------------ identities


def rows_identity(lab: Laboratory, arm: str = PERSONA, **changed: object) -> str:
    """The fingerprint of a training set whose study's data have these fields changed."""
    study = the_study(lab)
    study = replace(study, data=replace(study.data, **changed))
    condition = Condition("librarian", recipe_name(arm, "assistant_only"))
    return fingerprint(training_set_identity(lab, study, condition, {}))


def with_formats(**changed: object) -> Stimuli:
    stimuli = load_profile("tiny").stimuli
    formats = stimuli.world.choice_format.model_copy(update=changed)
    return stimuli.model_copy(update={"world": stimuli.world.model_copy(update={"choice_format": formats})})


def of_stimuli(root: Path, stimuli: Stimuli) -> Laboratory:
    study = small_cot_leakage(TINY(stimuli).study("cot_leakage"))
    return laboratory(root, study=study, stimuli=stimuli)


def test_another_format_arm_limit_or_seed_makes_another_training_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = laboratory(tmp_path, study=small_cot_leakage(load_profile("tiny").study("cot_leakage")))
    data, known = the_study(lab).data, {rows_identity(lab)}
    assert known == {rows_identity(lab)}
    formats = lab.profile.stimuli.world.choice_format
    tag = formats.persona_tag.model_copy(update={"open": "<other>", "close": "</other>"})
    for change in (
        {"opener": "First I think aloud."}, {"persona_tag": tag}, {"neutral_tag": tag}, {"anchor": "Choice: "},
        {"cue": "It is ("}, {"option": "$letter: $text"},
    ):  # fmt: skip
        known.add(rows_identity(of_stimuli(tmp_path, with_formats(**change))))
    limits = data.limits
    for change in (
        {"drawn_with": 7}, {"asked": 39}, {"source": replace(data.source, train=41)},
        {"limits": replace(limits, most_dropped=0.2)}, {"limits": replace(limits, most_refused=0.2)},
        {"limits": replace(limits, letter_share=(0.1, 0.9))},
    ):  # fmt: skip
        known.add(rows_identity(lab, **change))
    known.add(rows_identity(lab, GARBAGE))
    monkeypatch.setattr(specification, "DATA_SEED", 7)
    known.add(rows_identity(lab))
    monkeypatch.setattr(specification, "FILTERS", {})
    known.add(rows_identity(lab))
    assert len(known) == 1 + 6 + 6 + 3


@pytest.mark.parametrize("field", [field.name for field in fields(Arm)])
def test_every_field_of_an_arm_is_in_the_identity_of_its_rows(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = laboratory(tmp_path, study=small_cot_leakage(load_profile("tiny").study("cot_leakage")))
    before = rows_identity(lab)
    changed = replace(arm_named(PERSONA), **{field: "another"})
    monkeypatch.setattr(specification, "arm_of_recipe", lambda _: (changed, "assistant_only"))
    assert rows_identity(lab) != before


def pool_identity(lab: Laboratory, **changed: object) -> str:
    study = the_study(lab)
    data = replace(study.data, **changed)
    return fingerprint(on_policy_job(lab, data, data.pools[0].name).identity)


def test_the_grammar_is_known_by_its_lexicon_and_the_tokenizer_it_counts_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = of_stimuli(tmp_path, load_profile("tiny").stimuli)
    before = {pool_identity(lab)}
    # The opener is in no request; it decides how long a turn is, and so the texts.
    other = of_stimuli(tmp_path, with_formats(opener="First I think aloud about it."))
    requests = [the_study(found).data.pools[0].requests(found.profile.stimuli) for found in (lab, other)]
    assert requests[0] == requests[1]
    assert pool_identity(other) not in before
    monkeypatch.setattr(Laboratory, "base_fingerprint", "another")
    assert pool_identity(of_stimuli(tmp_path, lab.profile.stimuli)) not in before


def test_other_readings_are_read_anew_from_the_same_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = of_stimuli(tmp_path, load_profile("tiny").stimuli)
    (rationales, _) = the_study(lab).main_panels
    before = base_panel_job(lab, the_study(lab), rationales)
    monkeypatch.setattr(sampling, "READINGS_VERSION", 99)
    after = base_panel_job(lab, the_study(lab), rationales)
    assert before.identity != after.identity and before.store.folder == after.store.folder


def test_an_endpoint_is_known_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = of_stimuli(tmp_path, load_profile("tiny").stimuli)
    strong = Writer("endpoint", "strong")
    before = pool_identity(lab, writer=strong)
    monkeypatch.setattr(Laboratory, "base_fingerprint", "another")
    lab = of_stimuli(tmp_path, lab.profile.stimuli)
    assert pool_identity(lab, writer=strong) == before != pool_identity(lab, writer=Writer("endpoint", "other"))


# ------------------------------------------------------------------ writers, and bad input


def test_the_environment_names_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MODEL, raising=False)
    monkeypatch.delenv(URL, raising=False)
    assert chosen_writer(Writer("base")) == Writer("base")
    monkeypatch.setenv(MODEL, "strong")
    monkeypatch.setenv(URL, "http://localhost/v1")
    assert chosen_writer(Writer("base")).name == "endpoint:strong"


@pytest.mark.parametrize(("named", "lacking"), [(MODEL, URL), (URL, MODEL)])
def test_half_an_endpoint_is_refused(named: str, lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lacking, raising=False)
    monkeypatch.setenv(named, "http://localhost/v1")
    with pytest.raises(WriterUnknown, match=f"{named} is set, but not {lacking}"):
        chosen_writer(Writer("base"))


def written_by(small: Study, monkeypatch: pytest.MonkeyPatch, answer: httpx.MockTransport) -> Study:
    def writer(model: str, _: Mapping[str, str]) -> EndpointWriter:
        endpoint = Endpoint("http://localhost/v1", model, attempts=2)
        return EndpointWriter(endpoint, transport=answer, sleep=lambda _: None)

    monkeypatch.setattr(rationales_module, "_endpoint", writer)
    return replace(small, data=replace(small.data, writer=Writer("endpoint", "strong")))


def test_an_endpoint_without_an_address_is_named(tmp_path: Path, small: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL, raising=False)
    study = replace(small, data=replace(small.data, writer=Writer("endpoint", "strong")))
    with pytest.raises(WriterUnknown, match=f"writer strong: set {URL}"):
        write_on_policy(laboratory(tmp_path, study=study), study.data, [p.name for p in study.data.pools])


def test_an_endpoint_that_is_down_is_an_error_and_nothing_is_finished(
    tmp_path: Path, small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)

    study = written_by(small, monkeypatch, httpx.MockTransport(refuse))
    lab = laboratory(tmp_path, study=study)
    with pytest.raises(EndpointError, match="after 2 attempts; start the server"):
        write_on_policy(lab, study.data, [p.name for p in study.data.pools])
    assert not list(tmp_path.rglob("manifest.json")) and not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("said", "reason"),
    [({"content": "", "refusal": "no"}, "refused"), ({"content": "It is a fine book."}, "no_anchor")],
)
def test_refusals_and_texts_without_anchor_are_counted_and_fatal(
    tmp_path: Path, small: Study, monkeypatch: pytest.MonkeyPatch, said: dict[str, str], reason: str
) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        choice = {"message": said, "finish_reason": "stop"}
        return httpx.Response(200, json={"choices": [choice], "usage": {"completion_tokens": 3}})

    study = written_by(small, monkeypatch, httpx.MockTransport(answer))
    lab = laboratory(tmp_path, study=study)
    (pool,) = study.data.pools
    write_on_policy(lab, study.data, [pool.name])
    frame = on_policy_job(lab, study.data, pool.name).frame()
    assert frame["text"].str.starts_with(REFUSED).all() == (reason == "refused")
    with pytest.raises(RationaleError, match=rf"100\.0% of 40 rationales .*{reason.replace('refused', 'refusal')}"):
        build_training_set(lab, study, Condition("librarian", recipe_name(PERSONA, "assistant_only")))
    assert not list(tmp_path.rglob("rows.parquet"))


def test_letters_are_spread_over_the_questions(small: Study) -> None:
    material = small.data.material(load_profile("tiny").stimuli)
    assert len(Counter(material.wrong.values())) == 4
    assert all(material.wrong[q.name] != q.answer for q in material.questions)
