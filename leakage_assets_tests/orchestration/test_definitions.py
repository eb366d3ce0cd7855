"""The graph of both profiles: complete, uniform where runs are shared, automated only where it is cheap."""

from __future__ import annotations

import ast
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

import leakage_assets.assets
from leakage_assets.assets.cell_assets import in_order
from leakage_assets.assets.common import RETRIES
from leakage_assets.definitions import qwen2_5_7b, tiny
from leakage_assets.executor.tags import gpus
from leakage_assets.partitions import (
    answers_mapping,
    cell_of,
    cell_partitions,
    condition_partitions,
    partition_key,
    pool_partitions,
)
from leakage_assets.profiles import Profile, load_profile
from leakage_assets.resources import REFRESH_TAG
from leakage_assets.studies.study import Study

LOCATIONS = {"tiny": tiny, "qwen2.5-7b": qwen2_5_7b}
OOD = {"ood_samples", "ood_scores"}
FOLLOWUPS = {f"{panel}_{stage}" for panel in ("declarative", "dissociation") for stage in ("samples", "scores")}
RATIONALES = {f"{panel}_{s}" for panel in ("rationales", "repeat", "repeat_rationales") for s in ("samples", "scores")}
PROBE = {"probe_samples", "probe_scores"}
STUDIES = {
    "marker_leakage": OOD,
    "source_rate": {"prechecks"},
    "trigger_leakage": {"prechecks"} | FOLLOWUPS,
    "cot_leakage": {"prechecks"} | RATIONALES,
    "two_marker_chunk": {"prechecks"} | PROBE,
}
"""What each study has besides what all have."""
SHARED = {"base_model", "stimuli", "on_policy_completions"}
PANELS = {"samples", "scores"} | OOD | FOLLOWUPS | RATIONALES | PROBE
SAMPLES = {name for name in PANELS if name.endswith("samples")}
CELL_ASSETS = {"adapter", "tuned_similarity"} | PANELS
CHEAP = {name for name in PANELS if name.endswith("scores")} | {"prompt_similarity", "analysis", "figures", "report"}
ON_GPU = SAMPLES | {
    "on_policy_completions", "persona_centroids", "prechecks", "adapter", "tuned_similarity",
}  # fmt: skip
OPTIONAL = set().union(*STUDIES.values())
EVERYTHING = SHARED | CELL_ASSETS | CHEAP | {"training_set", "persona_centroids", "analysis_plan", "prechecks"}
LONGEST_BODY = 25


@pytest.fixture(params=LOCATIONS)
def profile(request: pytest.FixtureRequest) -> Profile:
    return load_profile(request.param)


@pytest.fixture
def defs(profile: Profile) -> dg.Definitions:
    return LOCATIONS[profile.name]


@pytest.fixture(params=STUDIES)
def study(request: pytest.FixtureRequest, profile: Profile) -> Study:
    return profile.study(request.param)


def all_assets(defs: dg.Definitions) -> list[dg.AssetsDefinition]:
    return [asset for asset in defs.resolve_asset_graph().assets_defs if isinstance(asset, dg.AssetsDefinition)]


def assets_by_name(defs: dg.Definitions, study: Study) -> dict[str, dg.AssetsDefinition]:
    """The shared assets and those of a study; a definition with several assets is each of them."""
    pairs = [(key, asset) for asset in all_assets(defs) for key in asset.keys]
    return {key.path[-1]: asset for key, asset in pairs if len(key.path) == 2 or key.path[1] == study.name}


def those_of(study: Study, names: set[str]) -> set[str]:
    """Of these names the ones that the study has."""
    return names - (OPTIONAL - STUDIES[study.name])


def test_definitions_are_loadable(defs: dg.Definitions, study: Study, profile: Profile) -> None:
    dg.Definitions.validate_loadable(defs)
    assert set(assets_by_name(defs, study)) == those_of(study, EVERYTHING)
    assert {s.name for s in profile.studies} == set(STUDIES)


def test_keys_say_profile_and_study(defs: dg.Definitions, profile: Profile, study: Study) -> None:
    for name, asset in assets_by_name(defs, study).items():
        assert dg.AssetKey([profile.name, *([] if name in SHARED else [study.name]), name]) in asset.keys


def test_every_asset_is_described(defs: dg.Definitions) -> None:
    for spec in (spec for asset in all_assets(defs) for spec in asset.specs):
        assert spec.group_name not in (None, "default"), spec.key
        assert spec.kinds, spec.key
        assert spec.owners == ["team:leakage"], spec.key
        assert spec.description and len(spec.description) > 20, spec.key


def test_cell_assets_can_share_a_run(defs: dg.Definitions, profile: Profile, study: Study) -> None:
    assets = assets_by_name(defs, study)
    for name in those_of(study, CELL_ASSETS):
        assert assets[name].partitions_def == cell_partitions(study), name
        assert assets[name].backfill_policy == dg.BackfillPolicy.multi_run(profile.cells_of_a_run(study)), name
    others = {name for name, asset in assets.items() if isinstance(asset.partitions_def, dg.MultiPartitionsDefinition)}
    assert others == those_of(study, CELL_ASSETS)


def test_one_run_holds_every_condition_of_a_seed(profile: Profile, study: Study) -> None:
    assert profile.cells_of_a_run(study) >= len(study.conditions)
    assert profile.cells_of_a_run(study) == profile.cells_per_run or len(study.conditions) > profile.cells_per_run


def test_only_cheap_assets_run_by_themselves(defs: dg.Definitions, study: Study) -> None:
    assets = assets_by_name(defs, study)
    specs = [(name, spec) for name, asset in assets.items() for spec in asset.specs if spec.key.path[-1] == name]
    automated = {name for name, spec in specs if spec.automation_condition}
    assert automated == those_of(study, CHEAP)


def test_steps_that_need_a_gpu_say_so_and_are_retried(defs: dg.Definitions, study: Study) -> None:
    assets, on_gpu = assets_by_name(defs, study), those_of(study, ON_GPU)
    assert {name for name, asset in assets.items() if gpus(asset.op.tags) == 1} == on_gpu
    assert {name for name, asset in assets.items() if gpus(asset.op.tags) > 1} == set()
    assert {name for name, asset in assets.items() if asset.op.retry_policy == RETRIES} == on_gpu
    assert {name for name, asset in assets.items() if asset.op.retry_policy is not None} == on_gpu


def test_adapters_and_samples_are_one_step_of_which_each_can_be_made_alone(defs: dg.Definitions, study: Study) -> None:
    assets = assets_by_name(defs, study)
    one = assets["adapter"]
    assert {key.path[-1] for key in one.keys} == those_of(study, {"adapter", *SAMPLES})
    assert one.can_subset
    deps = {key.path[-1]: {dep.path[-1] for dep in one.asset_deps[key]} for key in one.keys}
    assert deps["adapter"] == {"training_set", "base_model"}
    for name in those_of(study, SAMPLES):
        assert deps[name] >= {"adapter", "stimuli"}


def test_a_panel_is_sampled_after_the_one_it_goes_on_from(study: Study) -> None:
    panels = in_order(study)
    assert set(panels) == set(study.every_panel) and len(panels) == len(study.every_panel)
    for place, panel in enumerate(panels):
        followed = study.followed(panel)
        assert followed is None or followed in panels[:place]


def test_the_adapter_proof_blocks(defs: dg.Definitions, study: Study) -> None:
    (check,) = assets_by_name(defs, study)["adapter"].check_specs
    assert check.blocking and check.partitions_def == cell_partitions(study)


def test_jobs_and_schedules(defs: dg.Definitions, study: Study) -> None:
    repository = defs.get_repository_def()
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__ASSET_JOB")}
    own = {f"{name}_{job}" for name in STUDIES for job in ("cells", "foundations", "conclusions")}
    assert jobs == own | {"pretrain_tiny_base"}
    assert {schedule.name for schedule in repository.schedule_defs} == {f"{name}_weekly_rerun" for name in STUDIES}
    schedule = repository.get_schedule_def(f"{study.name}_weekly_rerun")
    assert (schedule.cron_schedule, schedule.job_name) == ("0 3 * * 1", f"{study.name}_cells")
    foundations = repository.get_job(f"{study.name}_foundations").asset_layer.selected_asset_keys
    # Checks of the training answers come after these, which are partitioned and so no part of the job.
    checked = "prechecks" in STUDIES[study.name] and not study.audits_answers
    assert ("prechecks" in {key.path[-1] for key in foundations}) == checked
    cells = repository.get_job(f"{study.name}_cells")
    assert {key.path[1] for key in cells.asset_layer.selected_asset_keys} == {study.name}
    before = {"rationales_samples", "rationales_scores"} if study.name == "cot_leakage" else set()
    names = {key.path[-1] for key in cells.asset_layer.selected_asset_keys}
    assert names == {"adapter", "samples", "scores"} | before
    assert cells.partitions_def == cell_partitions(study)


def test_the_weekly_tick_redoes_the_first_seed(defs: dg.Definitions, study: Study) -> None:
    repository = defs.get_repository_def()
    schedule = repository.get_schedule_def(f"{study.name}_weekly_rerun")
    tick = dg.build_schedule_context(
        scheduled_execution_time=datetime(2026, 3, 2, 3, tzinfo=UTC), repository_def=repository
    )
    (request,) = schedule.evaluate_tick(tick).run_requests
    assert request.run_key == request.tags[REFRESH_TAG] == "2026-03-02"
    bounds = [request.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")]
    partitions = cell_partitions(study)
    chosen = partitions.get_partition_keys_in_range(dg.PartitionKeyRange(*bounds))
    cells = [cell_of(key) for key in chosen]
    assert {cell.seed for cell in cells} == {study.seeds[0]}
    assert {cell.condition for cell in cells} == set(study.conditions) and len(cells) == len(study.conditions)


def test_cells_round_trip_through_partition_keys(study: Study) -> None:
    keys = cell_partitions(study).get_partition_keys()
    assert {cell_of(key) for key in keys} == set(study.cells)
    assert [partition_key(cell_of(key)) for key in keys] == list(keys)
    with pytest.raises(TypeError, match="no dimensions"):
        cell_of("villain__marker_only|42")


def test_answers_go_to_exactly_the_conditions_trained_on_them(profile: Profile, study: Study) -> None:
    pools, conditions = pool_partitions(profile), condition_partitions(study)
    mapping = answers_mapping(study)
    for pool in profile.pools:
        expected = {c.key for c in study.conditions if pool.name in study.donors(study, c)}
        subset = pools.empty_subset().with_partition_keys([pool.name])
        found = mapping.get_downstream_partitions_for_partitions(subset, pools, conditions)
        assert set(found.get_partition_keys()) == expected, pool.name
    for condition in study.conditions:
        subset = conditions.empty_subset().with_partition_keys([condition.key])
        upstream = mapping.get_upstream_mapped_partitions_result_for_partitions(subset, conditions, pools)
        assert set(upstream.partitions_subset.get_partition_keys()) == set(study.donors(study, condition)), (
            condition.key
        )


def asset_functions() -> list[ast.FunctionDef]:
    """Every function of the asset modules that takes a context: the assets' own bodies."""
    folder = Path(leakage_assets.assets.__file__).parent
    trees = [ast.parse(path.read_text()) for path in folder.glob("*.py")]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [f for f in functions if f.args.args and f.args.args[0].arg == "context"]


def test_asset_bodies_are_thin() -> None:
    functions = asset_functions()
    lengths = {}
    for function in functions:
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lengths[function.name] = (body[-1].end_lineno or 0) - body[0].lineno + 1
    scores = {name for name in PANELS if name.endswith("scores")}  # one function for all of them
    one_step = {"adapter_and_samples", "_adapters", "_samples"}  # adapters and the samples of every panel
    assert len(functions) == len(lengths)
    assert set(lengths) == EVERYTHING - scores - SAMPLES - {"adapter"} | {"scores"} | one_step
    assert {name: n for name, n in lengths.items() if n > LONGEST_BODY} == {}
