"""A step whose process or machine fails is tried again; one whose input is wrong is not."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any, NoReturn

import dagster as dg
import pytest

from leakage_assets.cell_runs import Tally, conclude, not_retried
from leakage_assets.exceptions import ExpectedError, PartitionError
from leakage_assets.executor.tags import gpus
from leakage_assets.generation.engine import EngineDied
from leakage_assets.models import BaseModelError
from leakage_assets.partitions import range_tags
from leakage_assets.pipeline.laboratory import Outcome
from leakage_assets.resources import LaboratoryResource
from leakage_assets.store.artifacts import ArtifactStore
from leakage_assets_tests.orchestration.small_location import HOOK, cells, defs
from leakage_assets_tests.orchestration.workshop import Workshop

SEED = 42
KILLED = "comedian__full_completion"
POLICY = dg.RetryPolicy(max_retries=2)


def attempts(body: Any) -> tuple[int, dg.ExecuteInProcessResult]:
    """How often an asset with a retry policy is tried."""
    begun: list[None] = []

    @dg.asset(retry_policy=POLICY)
    def tried(context: dg.AssetExecutionContext) -> None:
        begun.append(None)
        body(context)

    result = dg.materialize([tried], raise_on_error=False)
    return len(begun), result


def failing(error: Exception) -> Any:
    @not_retried()
    def body(_: dg.AssetExecutionContext) -> NoReturn:
        raise error

    return body


@pytest.mark.parametrize(
    "error", [ExpectedError("mend a.yaml"), PartitionError("mend a.yaml"), BaseModelError("mend a.yaml")]
)
def test_an_expected_error_ends_the_step_with_its_sentence(error: Exception) -> None:
    count, result = attempts(failing(error))
    assert count == 1 and not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    data = failed.step_failure_data.user_failure_data
    assert data is not None and data.description == "mend a.yaml"


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: device lost"), OSError("stale handle"), EngineDied("vLLM died 3 times")]
)
def test_any_other_error_is_tried_again(error: Exception) -> None:
    count, result = attempts(failing(error))
    assert count == 1 + POLICY.max_retries and not result.success


def test_a_dead_engine_is_no_error_of_one_cell() -> None:
    def prove(key: str) -> NoReturn:
        raise EngineDied(f"vLLM died 3 times, last at {key}")

    with pytest.raises(EngineDied, match="last at villain"):
        Tally().attempt(["villain|42", "comedian|42"], prove)


def test_further_work_begins_when_the_first_is_over_and_fails_one_cell(tmp_path: Path) -> None:
    order: list[str] = []
    with ArtifactStore(tmp_path).draft(("adapter",), {"cell": "any"}) as draft:
        pass
    outcome = Outcome(draft.artifact, reused=False)

    def train(key: str) -> Outcome:
        order.append(f"train {key}")
        if key == "b":
            raise PartitionError("the loss is not finite")
        return outcome

    def prove(key: str, trained: Outcome) -> Outcome:
        order.append(f"prove {key}")
        if key == "c":
            raise PartitionError("not applied")
        return replace(trained, metrics={"proof": 1.0})

    tally = Tally().attempt("abcd", train)
    assert tally.then(prove) is tally
    assert order == ["train a", "train b", "train c", "train d", "prove a", "prove c", "prove d"]
    assert {key: dict(one.metrics) for key, one in tally.done.items()} == {"a": {"proof": 1.0}, "d": {"proof": 1.0}}
    assert {key: str(error) for key, error in tally.failed.items()} == {
        "b": "the loss is not finite",
        "c": "not applied",
    }


def test_failed_cells_end_the_step() -> None:
    tally = Tally(failed={"villain|42": PartitionError("the loss is not finite")})
    count, result = attempts(lambda context: conclude(context, tally))
    assert count == 1 and not result.success


def on_gpu() -> Iterator[dg.AssetKey]:
    for asset in defs.resolve_asset_graph().assets_defs:
        if isinstance(asset, dg.AssetsDefinition) and gpus(asset.op.tags):
            yield from asset.keys


@pytest.mark.parametrize("key", sorted(on_gpu()), ids=lambda key: key.path[-1])
def test_no_asset_retries_an_expected_error(key: dg.AssetKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def refuse(self: LaboratoryResource, context: dg.AssetExecutionContext) -> NoReturn:
        opened.append(context.op_def.name)
        raise BaseModelError("no such model: download it")

    monkeypatch.setattr(LaboratoryResource, "open", refuse)
    with dg.DagsterInstance.ephemeral() as instance:
        workshop = Workshop(tmp_path, instance)
        asset = workshop.asset(key)
        partitions = asset.partitions_def.get_partition_keys()[:1] if asset.partitions_def else []
        result = workshop.run_keys([key], range_tags(partitions) if partitions else {})
    assert len(opened) == 1 and not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    data = failed.step_failure_data.user_failure_data
    assert data is not None and data.description == "no such model: download it"


@pytest.mark.slow
@pytest.mark.xdist_group("orchestration")
def test_a_step_that_is_killed_goes_on_where_it_was(
    foundations: Path, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, folder in (("DAGSTER_HOME", "home"), ("LEAKAGE_LEASES", "leases"), (HOOK, "hook")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("LEAKAGE_ARTIFACTS", str(workshop.root))
    monkeypatch.setenv("LEAKAGE_DEVICES", "")
    (tmp_path / "hook" / "kill").write_text(KILLED)
    keys = workshop.keys(SEED)
    with dg.DagsterInstance.get() as instance:
        adapter = [workshop.key("adapter")]
        with dg.execute_job(
            dg.reconstructable(cells), instance, tags=range_tags(keys), asset_selection=adapter
        ) as result:
            assert result.success
            retries = [event for event in result.all_events if event.is_step_up_for_retry]
        assert instance.get_materialized_partitions(workshop.key("adapter")) == {str(key) for key in keys}
    assert ["was ended by SIGKILL" in event.event_specific_data.error.message for event in retries] == [True]
    trained = Counter((tmp_path / "hook" / "trained").read_text().split())
    assert trained == Counter({str(key): 2 if str(key).startswith(KILLED) else 1 for key in keys})


def test_jobs_are_made_side_by_side_and_the_first_before_the_others() -> None:
    begun: list[str] = []
    meet = Barrier(3, timeout=30)

    def make(key: str) -> str:
        if key == "a":
            assert not begun
        else:
            assert begun[0] == "a"
            meet.wait()  # passes only where three are made at the same time
        begun.append(key)
        if key == "c":
            raise PartitionError("never proven")
        return key.upper()

    tally = Tally()
    assert tally.select("abcd", make) == {"a": "A", "b": "B", "d": "D"}
    assert {key: str(error) for key, error in tally.failed.items()} == {"c": "never proven"}
    assert Tally().select([], make) == {}
