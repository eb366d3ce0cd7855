"""Materialises a study through Dagster from this process: what `leakage demo` and `leakage run` do."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import dagster as dg
from dagster._core.execution.plan.objects import ErrorSource
from dagster_shared.error import SerializableErrorInfo

from leakage_assets.assets import shared_assets, study_assets
from leakage_assets.assets.common import asset_key
from leakage_assets.assets.study_assets import PRECHECKS, foundation_names
from leakage_assets.exceptions import ExpectedError
from leakage_assets.executor.leases import held
from leakage_assets.executor.tags import gpus
from leakage_assets.partitions import partition_key, range_tags
from leakage_assets.paths import ARTIFACTS, REPO
from leakage_assets.profiles import Profile
from leakage_assets.resources import REFRESH_TAG, LaboratoryResource
from leakage_assets.studies.study import Cell, Study

CHECKED = dg.DagsterEventType.ASSET_CHECK_EVALUATION.value
T = TypeVar("T")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class RunFailed(ExpectedError):
    """A Dagster run failed; the message carries the step's own error."""


def dagster_instance() -> dg.DagsterInstance:
    """The instance the web UI shows: DAGSTER_HOME, or ``.dagster_home`` in the repository."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(REPO / ".dagster_home")))
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copy(REPO / "dagster.yaml", home / "dagster.yaml")
    return dg.DagsterInstance.get()


class StudyRuns:
    """Runs over chosen cells of a study, in the order of the lineage."""

    def __init__(
        self,
        profile: Profile,
        study: Study,
        *,
        instance: dg.DagsterInstance,
        refresh: str | None = None,
        artifacts: Path = ARTIFACTS,
    ) -> None:
        self.profile, self.study, self.instance, self.refresh = profile, study, instance, refresh
        self.assets = [*shared_assets(profile), *study_assets(profile, study)]
        for asset in self.assets:
            # A retry is for a process that died; this one would meet the same device again, and Ctrl-C would be retried
            # too. Runs in process take no executor configuration that says so.
            asset.op._retry_policy = None
        self.laboratory = LaboratoryResource(profile=profile.name, artifacts=str(artifacts), progress="terminal")

    def all_stages(self, cells: Sequence[Cell], extras: bool) -> Iterator[str]:
        """Everything the cells need, the cells, and the conclusions; yields the name of each stage when it is done.

        All runs are in this process, which keeps its model on its device: it holds the devices to the end, as the
        steps of other runs on this host hold theirs.

        Raises:
            RunFailed: a run failed.
            LeaseError: an asset asks for more devices than the host has.
        """
        with held(self.gpus, f"leakage run {self.study.name}", _say):
            yield from self.foundations(cells)
            yield from self.cells(cells, extras)
            yield from self.conclusions()

    @property
    def gpus(self) -> int:
        """The most GPUs that an asset asks for."""
        return max(gpus(asset.op.tags) for asset in self.assets)

    def foundations(self, cells: Sequence[Cell]) -> Iterator[str]:
        """Base model, stimuli, plan, geometry, on-policy answers and training sets."""
        shared = [asset_key(self.profile, None, name) for name in ("base_model", "stimuli")]
        # Checks that read the training answers come after these.
        last = [self._key(PRECHECKS)] if self.study.audits_answers else []
        own = [self._key(name) for name in foundation_names(self.study)]
        self._run([*shared, *(key for key in own if key not in last)])
        yield "base model, stimuli, plan and geometry"
        pools = [pool.name for pool in self.profile.pools]
        for names in contiguous(pools, {pool.name for pool in self.study.data.pools}):
            self._run([asset_key(self.profile, None, "on_policy_completions")], range_tags(names))
        yield "on-policy completions"
        if last:
            self._run(last)
            yield "checks before training"
        for stretch in contiguous(self.study.conditions, {cell.condition for cell in cells}):
            self._run([self._key("training_set")], range_tags([condition.key for condition in stretch]))
        yield "training sets"

    def cells(self, cells: Sequence[Cell], extras: bool) -> Iterator[str]:
        """Adapters, samples and scores: one run per seed and stretch of conditions, one base-model load each."""
        panels = (*self.study.main_panels, *(self.study.extra_panels if extras else ()))
        names = ["adapter", *(f"{p.asset_prefix}{s}" for p in panels for s in ("samples", "scores"))]
        if extras:
            names.append("tuned_similarity")
        for seed in self.study.seeds:
            wanted = {cell.condition for cell in cells if cell.seed == seed}
            for stretch in contiguous(self.study.conditions, wanted):
                keys = [str(partition_key(Cell(condition, seed))) for condition in stretch]
                self._run([self._key(name) for name in names], range_tags(keys))
                one = len(stretch) == 1
                ends = stretch[0].key if one else f"{stretch[0].key} to {stretch[-1].key}"
                yield f"seed {seed}: {ends} ({len(stretch)} {'cell' if one else 'cells'})"

    def conclusions(self) -> Iterator[str]:
        """Analysis, figures and report over every finished cell."""
        self._run([self._key(name) for name in ("analysis", "figures", "report")])
        yield "analysis, figures and report"

    def _key(self, name: str) -> dg.AssetKey:
        return asset_key(self.profile, self.study, name)

    def _run(self, keys: Sequence[dg.AssetKey], tags: dict[str, str] | None = None) -> None:
        refresh = {} if self.refresh is None else {REFRESH_TAG: self.refresh}
        result = dg.materialize(
            self.assets,
            selection=list(keys),
            instance=self.instance,
            resources={"laboratory": self.laboratory},
            run_config=QUIET,
            tags={**(tags or {}), **refresh},
            raise_on_error=False,
        )
        if not result.success:
            failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
            if any(failure.error_source == ErrorSource.INTERRUPT for failure in failures):
                raise KeyboardInterrupt
            raise RunFailed(reason_of(result))


def contiguous(order: Sequence[T], wanted: Collection[T]) -> list[list[T]]:
    """The wanted partitions in stretches that are contiguous in the order of all of them: a run takes a range."""
    stretches: list[list[T]] = []
    previous = None
    for position, part in enumerate(order):
        if part not in wanted:
            continue
        if previous == position - 1 and stretches:
            stretches[-1].append(part)
        else:
            stretches.append([part])
        previous = position
    return stretches


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def reason_of(result: dg.ExecuteInProcessResult) -> str:
    failures = [event for event in result.all_events if event.is_step_failure]
    texts = []
    for event in failures:
        data = event.step_failure_data
        said = data.user_failure_data.description if data.user_failure_data else _blocked(result, event.step_key)
        texts.append(f"{event.step_key}: {said or (error_text(data.error) if data.error else event.message)}")
    return "\n".join(texts) or f"run {result.run_id} failed: see it in the web UI"


def _blocked(result: dg.ExecuteInProcessResult, step: str | None) -> str | None:
    """What the blocking checks of a step say that failed it: Dagster's own error names the check alone."""
    events = [event for event in result.all_events if event.step_key == step]
    checks = [event.asset_check_evaluation_data for event in events if event.event_type_value == CHECKED]
    reasons = [check.description for check in checks if check.blocking and not check.passed and check.description]
    return "\n".join(reasons) or None


def error_text(error: SerializableErrorInfo) -> str:
    """The sentence of an expected error, which names place and remedy; of any other error the whole trace.

    Dagster raises errors of its own from an asset's error, so the first cause that is not Dagster's is looked at. An
    expected error may have a cause in turn (a parser's, say): its own sentence is the one written for the user.
    """
    own = error
    while own.cause is not None and (own.cls_name or "").startswith("Dagster"):
        own = own.cause
    # Only the bare name of the class is serialised.
    if own.cls_name not in {kind.__name__ for kind in _kinds(ExpectedError)}:
        return error.to_string()
    _, _, sentence = own.message.partition(f"{own.cls_name}: ")
    return (sentence or own.message).strip()


def _kinds(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _kinds(narrower)
