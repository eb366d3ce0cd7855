"""A Dagster executor that gives every step the devices it asks for, and only those.

A step says how many in the op tag ``leakage/gpus`` (see ``tags``). It runs in a process of its own, which waits for a
lease (see ``leases``) and sees nothing but the leased devices; a step without the tag starts at once and sees none.
Leases hold across runs. Where a host has no device, the CPU counts as one, so that heavy steps take turns.
"""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.retries import RetryMode, get_retries_config
from dagster._core.executor.step_delegating import (
    CheckStepHealthResult,
    StepDelegatingExecutor,
    StepHandler,
    StepHandlerContext,
)

from leakage_assets.executor.step_worker import GRACE_SECONDS
from leakage_assets.executor.tags import gpus

HEALTH_SECONDS = 1
POLL_SECONDS = 0.3


@dataclass
class RunningStep:
    """A step's worker process, the file in which it tells about its devices, and what of that has been told on.

    ``ended``: a health check has found the process dead.
    """

    process: subprocess.Popen[bytes]
    status: Path
    told: str = ""
    ended: bool = False


class LocalStepHandler(StepHandler):
    """Starts, watches and ends the worker process of each step of a run."""

    def __init__(self) -> None:
        self._steps: dict[str, RunningStep] = {}
        self._attempts = itertools.count()
        self._folder = tempfile.TemporaryDirectory(prefix="leakage-steps-")

    @property
    def name(self) -> str:
        return "local devices"

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        arguments = step_handler_context.execute_step_args
        key = _step_key(step_handler_context)
        devices = gpus(step_handler_context.step_tags[key])
        status = Path(self._folder.name) / f"{next(self._attempts)}-{key}"
        command = [
            *(sys.executable, "-m", "leakage_assets.executor.step_worker"),
            *("--devices", str(devices), "--name", f"step {key} of run {arguments.run_id[:8]}"),
            *("--status", str(status), "--"),
            # Not the bare `dagster`: it need not be on the PATH.
            *(sys.executable, "-m", "dagster", "api", "execute_step"),
        ]
        passed = {variable["name"]: variable["value"] for variable in arguments.get_command_env()}
        process = subprocess.Popen(command, env={**os.environ, **passed})
        self._steps[key] = RunningStep(process, status)
        yield DagsterEvent.step_worker_starting(
            step_handler_context.get_step_context(key),
            message=f"Starting {key} with {devices} device(s)",
            metadata={"pid": str(process.pid), "devices": devices},
        )

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        """Unhealthy once the process has died; a step that failed says so itself, and its process ends with 0."""
        key = _step_key(step_handler_context)
        running = self._steps.get(key)
        if running is None:
            return CheckStepHealthResult.unhealthy("it was started by another run worker, which is gone")
        code = running.process.poll()
        self._tell(step_handler_context, key, running)
        if code in (None, 0) or not running.ended:
            # Its last event may have been written since the executor last looked: a verdict then would be a second one.
            running.ended = code not in (None, 0)
            return CheckStepHealthResult.healthy()
        return CheckStepHealthResult.unhealthy(f"its process {_ending(code)}")

    def terminate_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        key = _step_key(step_handler_context)
        running = self._steps.get(key)
        if running is not None and running.process.poll() is None:
            running.process.terminate()
            try:
                running.process.wait(2 * GRACE_SECONDS + 5)
            except subprocess.TimeoutExpired:
                running.process.kill()
        yield DagsterEvent.engine_event(
            step_handler_context.get_step_context(key), f"Ended {key} and everything it started", EngineEventData()
        )

    def _tell(self, context: StepHandlerContext, key: str, running: RunningStep) -> None:
        """Into the run's log: what the step waits for, and what it got."""
        try:
            text = running.status.read_text()
        except FileNotFoundError:
            return
        if text != running.told:
            running.told = text
            DagsterEvent.engine_event(context.get_step_context(key), text, EngineEventData())


def _step_key(context: StepHandlerContext) -> str:
    keys = context.execute_step_args.step_keys_to_execute or ()
    (key,) = keys  # the executor hands over one step at a time
    return key


def _ending(code: int) -> str:
    number = -code if code < 0 else code - 128
    if number in {s.value for s in signal.Signals}:
        return f"was ended by {signal.Signals(number).name}"
    return f"ended with code {code} before the step did"


@dg.executor(
    name="gpu",
    config_schema={"retries": get_retries_config()},  # type: ignore[no-untyped-call]
    requirements=dg.multiple_process_executor_requirements(),
)
def gpu_executor(init_context: dg.InitExecutorContext) -> StepDelegatingExecutor:
    """Steps as processes of this host, each with the devices it leases."""
    return StepDelegatingExecutor(
        LocalStepHandler(),
        retries=RetryMode.from_config(init_context.executor_config["retries"]),  # type: ignore[arg-type]
        sleep_seconds=POLL_SECONDS,
        check_step_health_interval_seconds=HEALTH_SECONDS,
    )
