"""What a study still costs: what is there is not counted again, and nothing is made, loaded or downloaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from leakage_assets.generation.vllm_plan import VllmSettings
from leakage_assets.models import BaseModelSpec, chat_ids, load_tokenizer, model_shape
from leakage_assets.pipeline import forecasting
from leakage_assets.pipeline.accounting import achieved
from leakage_assets.pipeline.adapters import adapter_address, adapter_identity
from leakage_assets.pipeline.conclusions import cell_requests, freeze_plan, sample_job
from leakage_assets.pipeline.forecasting import plan_study
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.planning.efficiency import Measured
from leakage_assets.planning.forecast import NO_LIMIT, NO_MEASUREMENT, Plan, Stage, StageForecast, describe
from leakage_assets.planning.hardware import HARDWARE, this_cpu
from leakage_assets.planning.ledger import Ledger, read_ledger
from leakage_assets.planning.work import Work
from leakage_assets.profiles import load_profile
from leakage_assets.studies.cot_leakage.rationales import Writer
from leakage_assets.studies.study import Condition
from leakage_assets.training.memory import plan_memory
from leakage_assets_tests.finished_study import finish_cell, unfinished_laboratory
from leakage_assets_tests.planning.results import FIGURES, write_result
from leakage_assets_tests.small_study import (
    DONORS,
    PERSONAS,
    Finished,
    forbid_the_model,
    laboratory,
    matching,
    small_cot_leakage,
    small_study,
    small_trigger_leakage,
    the_study,
)

H200 = HARDWARE["h200"]
NOTHING = Ledger(())
STAGES = ["on_policy_completions", "adapter", "adapter_proof", "samples", "persona_centroids"]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    """Two sources, two recipes, two seeds; nothing but the plan is made."""
    forbid_the_model(monkeypatch)
    return unfinished_laboratory(tmp_path / "artifacts")


def plan(lab: Laboratory, **more: object) -> Plan:
    study = the_study(lab)
    given = {"cells": study.cells, "hardware": H200, "ledger": NOTHING} | more
    return plan_study(lab, study, **given)  # type: ignore[arg-type]


def stages(planned: Plan) -> dict[str, StageForecast]:
    return {forecast.stage.name: forecast for forecast in planned.stages}


def counts(planned: Plan) -> dict[str, tuple[int, int]]:
    """Planned and done by stage."""
    return {name: (forecast.stage.planned, forecast.stage.done) for name, forecast in stages(planned).items()}


def test_everything_of_a_new_study_is_left(lab: Laboratory) -> None:
    study = the_study(lab)
    planned = plan(lab)
    assert counts(planned) == {
        "on_policy_completions": (len(DONORS) * 3 * 2, 0),
        "adapter": (8, 0),
        "adapter_proof": (8, 0),
        "samples": (8 * len(PERSONAS) * 3 * 2, 0),
        "persona_centroids": (len(PERSONAS) * 3, 0),
    }
    assert (planned.cells, planned.done) == (8, 0)
    assert planned.rows == 8 * 3 * 3 * 1  # source and two negatives, three questions, one answer
    assert not [path for path in lab.store.root.rglob("*") if path.is_file() and "analysis_plan" not in str(path)]
    assert study.panel.size == len(PERSONAS) * 3 * 2


def test_prompts_are_counted_token_by_token(lab: Laboratory) -> None:
    study, stimuli = the_study(lab), lab.profile.stimuli
    tokenizer = load_tokenizer(lab.profile.base)
    expected = sum(
        len(chat_ids(tokenizer, stimuli.prompt(name), question.text))
        for name in study.panel.prompts
        for question in study.questions(stimuli)
    )
    found = stages(plan(lab))["persona_centroids"]
    assert (found.stage.tokens, found.stage.basis) == (expected, "exact")
    read = stages(plan(lab))["samples"].stage.work[0]
    assert read.tokens == 8 * expected  # of each adapter once, whatever the number of completions


def test_without_samples_their_length_is_assumed_and_said(lab: Laboratory) -> None:
    planned = plan(lab)
    assert stages(planned)["samples"].stage.tokens == 8 * 48 * 96  # no more than may be sampled
    assert [a for a in planned.assumptions if "96 tokens each are assumed" in a] == [
        "No on-policy completions are there to tell their length: 96 tokens each are assumed.",
        "No samples of the panel main are there to tell their length: 96 tokens each are assumed.",
    ]


def test_what_is_there_is_not_counted_again(lab: Laboratory) -> None:
    study = the_study(lab)
    finish_cell(lab, study.cells[0], study.panels[:1])
    planned = plan(lab)
    assert planned.done == 1
    found = counts(planned)
    assert found["adapter"] == found["adapter_proof"] == (8, 1)
    assert found["samples"] == (8 * 48, 48)
    assert found["on_policy_completions"] == (30, 18)  # of the source and its two negatives
    sampled = stages(planned)["samples"].stage
    assert sampled.tokens == pytest.approx(7 * 48 * 9)  # the samples there have nine tokens each
    chosen = plan(lab, cells=study.cells[:1])
    assert {name for name, f in stages(chosen).items() if f.stage.work} == {
        "on_policy_completions",
        "persona_centroids",
    }
    assert stages(chosen)["samples"].seconds == stages(chosen)["samples"].floor == 0


def test_a_cell_owes_only_the_samples_it_lacks(lab: Laboratory) -> None:
    study, stimuli = the_study(lab), lab.profile.stimuli
    cell = study.cells[0]
    finish_cell(lab, cell, study.panels[:1])
    larger = replace(study, panels=(replace(study.panel, completions=5), *study.panels[1:]))
    planned = plan_study(lab, larger, [cell], H200, NOTHING)
    owed = stages(planned)["samples"].stage
    assert (owed.planned, owed.done) == (len(PERSONAS) * 3 * 5, len(PERSONAS) * 3 * 2)
    assert owed.kind == "sampling one adapter"
    missing = [r for r in sample_job(lab, larger, larger.panel, cell).requests if r.index >= 2]
    tokenizer = load_tokenizer(lab.profile.base)
    prompts = {(r.system, r.question) for r in missing}
    assert owed.work[0].tokens == sum(len(chat_ids(tokenizer, *prompt)) for prompt in prompts)
    assert len(prompts) == len(PERSONAS) * len(study.questions(stimuli))


def test_what_is_damaged_counts_as_left_and_is_named(lab: Laboratory) -> None:
    study = the_study(lab)
    cell = study.cells[0]
    finish_cell(lab, cell, study.panels[:1])
    adapter = lab.require(adapter_address(lab, study, cell), adapter_identity(lab, study, cell), remedy="")
    (adapter.folder / "made-up.txt").write_text("changed")
    planned = plan(lab, cells=[cell])
    assert counts(planned)["adapter"] == (1, 0)
    (named,) = [a for a in planned.assumptions if a.startswith("Counted as not done:")]
    assert "made-up.txt" in named


def test_extras_are_counted_when_asked_for(lab: Laboratory) -> None:
    assert [f.stage.name for f in plan(lab).stages] == STAGES
    names = [f.stage.name for f in plan(lab, extras=True).stages]
    assert names == [*STAGES[:4], "ood_samples", "persona_centroids", "tuned_similarity"]
    tuned, base = stages(plan(lab, extras=True))["tuned_similarity"], stages(plan(lab))["persona_centroids"]
    assert tuned.stage.tokens == 8 * base.stage.tokens
    assert tuned.stage.flop < 8 * base.stage.flop  # it ends below the last block, and needs no head


def test_without_measurement_there_is_a_floor_and_no_forecast(lab: Laboratory) -> None:
    planned = plan(lab)
    assert planned.unmeasured == tuple(STAGES)
    assert planned.seconds is None
    assert planned.floor == pytest.approx(sum(stage.floor for stage in planned.stages))
    assert planned.floor > 0


def test_rates_of_the_ledger_make_forecasts_for_the_engine_they_were_measured_with(
    lab: Laboratory, tmp_path: Path
) -> None:
    write_result(tmp_path / "results", figures={**FIGURES, "engine_start_s": 50.0, "adapter_proof_s": 1.0})
    ledger = read_ledger(tmp_path / "results")
    assert plan(lab, ledger=ledger).unmeasured == ("on_policy_completions", "adapter_proof", "samples")
    served = replace(lab, profile=replace(lab.profile, engine="vllm"))
    planned = plan(served, ledger=ledger)
    assert planned.unmeasured == ()
    around = sum(overhead.total for overhead in planned.overheads)
    assert planned.seconds == pytest.approx(sum(s.floor / s.efficiency.share for s in planned.stages) + around)
    assert any("a smaller model reaches less" in assumption for assumption in planned.assumptions)
    starts = {overhead.name: (overhead.count, overhead.seconds) for overhead in planned.overheads}
    # One run per seed: adapters and samples are one step with an engine; so are the on-policy completions.
    assert starts["starting the engine"] == (3, 50.0)
    assert starts["loading the base model"] == (4, None)
    assert starts["starting the process of a step"] == (6, None)


def test_a_hub_model_that_is_not_cached_is_planned_by_its_known_shape(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = BaseModelSpec("qwen", "Qwen/Qwen2.5-7B-Instruct", "a" * 40, "bfloat16")
    monkeypatch.setattr(forecasting, "folder_at_hand", lambda _: None)
    monkeypatch.setattr("leakage_assets.models.folder_at_hand", lambda _: None)
    planned = plan(replace(lab, profile=replace(lab.profile, base=hub)))
    assert planned.base_model == "qwen"
    assert planned.memory[0].memory.weights == 2 * 7_615_616_512
    assert {f.stage.basis for f in planned.stages} == {"estimate"}
    assert any(a.startswith("The tokenizer of qwen is not at hand: 4 characters") for a in planned.assumptions)


def test_memory_says_what_does_not_fit(lab: Laboratory) -> None:
    small = replace(H200, memory=1e6)
    assert all(need.fits for need in plan(lab).memory)
    assert not any(need.fits for need in plan(lab, hardware=small).memory)


@pytest.mark.parametrize(("engine", "cap"), [("vllm", 7), ("transformers", 5)])
def test_memory_is_that_of_a_batch_which_the_engine_runs(lab: Laboratory, engine: str, cap: int) -> None:
    small = replace(lab.profile, engine=engine, serving=VllmSettings(max_num_seqs=7), generation_batch=5)
    (serving, *_), (whole, *_) = plan(replace(lab, profile=small)).memory, plan(lab).memory
    assert serving.activity == f"sampling, {cap} sequences together"
    sequences = int(whole.activity.split()[1].replace(",", ""))
    assert serving.memory.kv_cache == pytest.approx(whole.memory.kv_cache * cap / sequences)


def test_the_json_keeps_its_schema(lab: Laboratory) -> None:
    """Whoever reads it relies on these names; a changed meaning raises `schema`."""
    shown = json.loads(json.dumps(plan(lab).as_dict()))
    assert shown["schema"] == 2
    assert list(shown) == [
        "schema", "study", "profile", "base_model", "random_weights", "hardware", "cells", "rows", "stages",
        "overheads", "memory", "totals", "assumptions",
    ]  # fmt: skip
    assert set(shown["hardware"]) == {
        "name", "title", "bfloat16_flop_per_s", "float32_flop_per_s", "bytes_per_s", "memory", "source",
    }  # fmt: skip
    assert shown["cells"] == {"planned": 8, "done": 0}
    for stage in shown["stages"]:
        assert set(stage) == {
            "name", "unit", "planned", "done", "tokens", "tokens_basis", "flop", "floor_s", "limited_by", "forecast_s",
            "efficiency", "efficiency_source",
        }  # fmt: skip
        assert (stage["forecast_s"], stage["efficiency_source"]) == (None, NO_MEASUREMENT)
    assert set(shown["overheads"][0]) == {"name", "count", "seconds_each", "source"}
    assert set(shown["memory"][0]) == {
        "activity", "weights", "kv_cache", "activations", "adapters", "optimiser", "total", "fits",
    }  # fmt: skip
    assert set(shown["totals"]) == {
        "tokens", "flop", "floor_s", "forecast_s", "forecast_of_measured_stages_s", "stages_without_forecast",
    }  # fmt: skip


def test_of_a_cpu_that_others_may_use_no_least_time_is_known(lab: Laboratory) -> None:
    planned = plan(lab, hardware=this_cpu())
    assert planned.floor > 0 and planned.bound is None
    shown = planned.as_dict()
    assert shown["totals"]["floor_s"] is None
    assert all((s["floor_s"], s["limited_by"], s["efficiency"]) == (None, None, None) for s in shown["stages"])
    assert {row[4] for row in describe(planned.stages)} == {NO_LIMIT}
    assert plan(lab).bound == plan(lab).floor > 0


@pytest.mark.parametrize("at_hand", [True, False])
@pytest.mark.parametrize("writer", [Writer("grammar"), Writer("endpoint", "a-model"), Writer("base")])
def test_texts_of_another_writer_cost_the_base_nothing(writer: Writer, at_hand: bool, tmp_path: Path) -> None:
    study = small_cot_leakage(load_profile("tiny").study("cot_leakage"))
    study = replace(study, data=replace(study.data, writer=writer), at_hand=lambda: at_hand)  # type: ignore[type-var]
    lab = laboratory(tmp_path, study=study)
    planned = plan_study(lab, study, study.cells, H200, NOTHING)
    stage = stages(planned)["on_policy_completions"].stage
    assert stage.planned > 0 and stage.done == 0
    assert (stage.tokens > 0) == (writer.kind == "base")
    said = f"The texts of cot_leakage_rationales are by {writer.name}, not by the base model: they cost it nothing."
    assert (said in planned.assumptions) == (writer.kind != "base")


def test_continuations_are_counted_before_and_after_an_adapter_is_there(tmp_path: Path) -> None:
    """Before, what they go on from is a mean answer; after, the prefixes are counted token by token."""
    study = small_trigger_leakage(load_profile("tiny").study("trigger_leakage"))
    lab = laboratory(tmp_path, study=study)
    freeze_plan(lab, study)
    cells = [study.cell(source, "strong", 42) for source in ("T_task", "villain")]
    (panel,) = study.continued

    def planned() -> Stage:
        found = plan_study(lab, study, cells, H200, NOTHING, extras=True)
        assert {"samples", "declarative_samples", "dissociation_samples"} <= set(stages(found))
        return stages(found)["dissociation_samples"].stage

    before = planned()
    assert (before.planned, before.done) == (2 * 16, 0)
    finish_cell(lab, cells[0], study.panels)
    after = planned()
    assert (after.planned, after.done) == (2 * 16, 0)
    finish_cell(lab, cells[0], study.every_panel)
    assert (planned().planned, planned().done) == (2 * 16, 16)
    tokenizer, requests = load_tokenizer(lab.profile.base), cell_requests(lab, study, panel, cells[0])
    read = {(r.system, r.question, r.prefix) for r in requests}
    exact = sum(len(chat_ids(tokenizer, system, user, prefix=prefix)) for system, user, prefix in read)
    assert all(r.prefix for r in requests)
    alone = plan_study(lab, study, cells[1:], H200, NOTHING, extras=True)
    one = stages(alone)["dissociation_samples"].stage.work[0].tokens
    assert after.work[0].tokens == pytest.approx(exact + one)


def test_what_was_done_here_says_how_near_it_came_and_forecasts_what_is_left(finished: Finished) -> None:
    """The real small study: its samples and geometry carry their performance, also when they are found again."""
    lab = laboratory(finished.root)
    measured = matching(finished.outcomes, r"adapter/.*|(ood_)?samples/.*|on_policy_completions/.*|persona_centroids")
    assert len(measured) == 3 * 4 + len(DONORS) + 1
    for name in measured:
        metrics = finished.outcomes[name].metrics
        assert metrics["tokens_per_s"] > 0, name
        assert 0 < metrics["model_flop_utilisation"] <= metrics["share_of_limit"], name
        assert achieved(finished.outcomes[name].artifact).items() <= metrics.items(), name
    study = small_study(lab.profile.studies[0])
    larger = replace(study, seeds=(42, 43))
    planned = plan_study(lab, larger, larger.cells, this_cpu(), NOTHING)
    assert (planned.cells, planned.done) == (8, 4)
    found = stages(planned)
    assert (found["samples"].stage.planned, found["samples"].stage.done) == (8 * 24, 4 * 24)
    for name in ("adapter", "samples"):
        assert found[name].seconds > 0, name
        assert "earlier of this store" in found[name].efficiency.source, name
    assert planned.unmeasured == ("adapter_proof",)
    padded = replace(lab, profile=replace(lab.profile, training_mode="as_published"))
    assert "adapter" in plan_study(padded, larger, larger.cells, this_cpu(), NOTHING).unmeasured


def test_samples_of_one_adapter_forecast_those_of_many_where_batches_hold_one(finished: Finished) -> None:
    lab = laboratory(finished.root)
    study = small_study(lab.profile.studies[0])
    alone = {measured.kind for measured in forecasting._Survey(lab, study, study.cells, this_cpu()).earlier()}
    assert "sampling many adapters" in alone and "sampling one adapter" not in alone
    left = plan_study(lab, replace(study, seeds=(42, 43)), (replace(study.cells[0], seed=43),), this_cpu(), NOTHING)
    forecast = stages(left)["samples"]
    assert forecast.stage.kind == "sampling one adapter" and forecast.seconds > 0
    assert forecast.efficiency.source.startswith("sampling many adapters: ")


def test_each_mode_of_training_is_forecast_from_its_own_rate(lab: Laboratory, tmp_path: Path) -> None:
    write_result(tmp_path / "results", figures={"train_tokens_per_s": 9e3, "train_tokens_per_s_as_published": 3e3})
    ledger = read_ledger(tmp_path / "results")
    padded = replace(lab, profile=replace(lab.profile, training_mode="as_published"))
    packed, published = (stages(plan(made, ledger=ledger))["adapter"] for made in (lab, padded))
    assert packed.efficiency.source == "train_tokens_per_s of result made_up"
    assert published.efficiency.source == "train_tokens_per_s_as_published of result made_up"
    assert packed.floor == published.floor
    assert published.seconds == pytest.approx(3 * packed.seconds)


def test_training_needs_the_memory_that_training_itself_plans_with(lab: Laboratory) -> None:
    """A step of the longest 4 rows of the set, whose answers are taken as equally long."""
    study, base = the_study(lab), lab.profile.base
    recipe = study.recipe("full_completion")
    (need,) = [need for need in plan(lab).memory if need.activity.startswith("training full_completion,")]
    sets = {c.condition: _sizes(lab, c.condition) for c in study.cells if c.condition.recipe == recipe.name}
    shape = model_shape(base)
    free = round(H200.memory - need.memory.weights)
    most = max(plan_memory(shape, recipe, sizes, free, "packed").estimated_bytes for sizes in sets.values())
    assert need.memory.total - need.memory.weights == most
    assert need.memory.adapters == 4 * shape.lora_parameters(recipe.lora.r, recipe.lora.targets)
    padded = replace(lab, profile=replace(lab.profile, training_mode="as_published"))
    (other,) = [need for need in plan(padded).memory if need.activity.startswith("training full_completion,")]
    assert other.memory.optimiser == need.memory.optimiser
    assert other.memory.activations != need.memory.activations


def test_a_whole_sequence_is_forecast_with_loss_on_every_token(lab: Laboratory) -> None:
    study = the_study(lab)
    whole = replace(study.recipe("full_completion"), loss="full_sequence")
    changed = replace(study, recipes=tuple(whole if r.name == whole.name else r for r in study.recipes))
    planned = plan_study(lab, changed, cells=changed.cells, hardware=H200, ledger=NOTHING)
    (need,) = [need for need in planned.memory if need.activity.startswith("training full_completion,")]
    conditions = {c.condition for c in study.cells if c.condition.recipe == whole.name}
    sets = [[(tokens, tokens) for tokens, _ in _sizes(lab, condition)] for condition in conditions]
    shape, free = model_shape(lab.profile.base), round(H200.memory - need.memory.weights)
    most = max(plan_memory(shape, whole, sizes, free, "packed").estimated_bytes for sizes in sets)
    assert need.memory.total - need.memory.weights == most


def _sizes(lab: Laboratory, condition: Condition) -> list[tuple[int, int]]:
    """Tokens and labels of a set's rows, with answers of the 96 tokens that are assumed."""
    study, stimuli = the_study(lab), lab.profile.stimuli
    tokenizer = load_tokenizer(lab.profile.base)
    return [
        (len(chat_ids(tokenizer, stimuli.persona(donor).prompt, question.text)) + 96, 96)
        for donor in study.donors(study, condition)
        for question in stimuli.question_sets[study.data.question_set].questions[: study.data.questions]
    ]


def test_a_plan_says_where_memory_makes_training_slower(lab: Laboratory) -> None:
    small = replace(H200, memory=1e6)
    assert any("recomputes activations for want of memory" in said for said in plan(lab, hardware=small).assumptions)
    assert not any("for want of memory" in said for said in plan(lab).assumptions)


def test_a_stream_of_many_adapters_counts_once() -> None:
    work = (Work(1.0, 2.0, 3.0, "float32"),)
    assert len({Measured("sampling many adapters", work, 5.0), Measured("sampling many adapters", work, 5.0)}) == 1
