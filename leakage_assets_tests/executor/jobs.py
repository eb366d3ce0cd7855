"""Jobs for the tests of the executors: LEAKAGE_EXECUTOR chooses. Steps write what they saw into LEAKAGE_TEST_FOLDER."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg

from leakage_assets.executor.choice import chosen_executor
from leakage_assets.executor.tags import GPUS_TAG
from leakage_assets.paths import ARTIFACTS

FOLDER = "LEAKAGE_TEST_FOLDER"
EXECUTOR = chosen_executor(ARTIFACTS)
ONE_DEVICE = {GPUS_TAG: "1"}
MEETING_SECONDS = 60.0


def record(name: str, seconds: float) -> None:
    """Work for a while, and write down when, and with which devices."""
    started = time.time()
    time.sleep(seconds)
    facts = {"started": started, "ended": time.time(), "devices": os.environ["CUDA_VISIBLE_DEVICES"]}
    Path(os.environ[FOLDER], f"{name}.json").write_text(json.dumps(facts))


def device_op(name: str, seconds: float = 1.0, devices: int = 1) -> dg.OpDefinition:
    @dg.op(name=name, tags={GPUS_TAG: str(devices)} if devices else {})
    def work() -> None:
        record(name, seconds)

    return work


@dg.job(executor_def=EXECUTOR)
def four_steps() -> None:
    for name in ("a", "b", "c", "d"):
        device_op(name)()
    device_op("cpu", seconds=0.1, devices=0)()


@dg.job(executor_def=EXECUTOR)
def one_step() -> None:
    device_op("only", seconds=4.0)()


@dg.job(executor_def=EXECUTOR)
def both_devices() -> None:
    device_op("single")()
    device_op("pair", devices=2)()


@dg.op(tags=ONE_DEVICE)
def meet() -> None:
    """Go on only when a step with another device is at work too."""
    folder = Path(os.environ[FOLDER])
    (folder / f"here-{os.environ['CUDA_VISIBLE_DEVICES']}").touch()
    deadline = time.monotonic() + MEETING_SECONDS
    while len(list(folder.glob("here-*"))) < 2:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no other device at work within {MEETING_SECONDS} s")
        time.sleep(0.05)


@dg.job(executor_def=EXECUTOR)
def meeting() -> None:
    meet()


@dg.job(executor_def=EXECUTOR)
def too_many() -> None:
    device_op("greedy", devices=3)()


@dg.op(tags=ONE_DEVICE, retry_policy=dg.RetryPolicy(max_retries=1))
def dies_once() -> None:
    mark = Path(os.environ[FOLDER], "died")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    record("second", 0.0)


@dg.job(executor_def=EXECUTOR)
def killed_step() -> None:
    dies_once()


@dg.op(tags=ONE_DEVICE, retry_policy=dg.RetryPolicy(max_retries=1))
def loses_its_worker_once() -> None:
    mark = Path(os.environ[FOLDER], "orphan")
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    record("second", 0.0)


@dg.job(executor_def=EXECUTOR)
def killed_worker() -> None:
    loses_its_worker_once()


@dg.op(tags=ONE_DEVICE, retry_policy=dg.RetryPolicy(max_retries=1))
def hears_nothing_once() -> None:
    """Like a long call into a library: it does not answer to SIGTERM."""
    mark = Path(os.environ[FOLDER], "deaf")
    if not mark.exists():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        mark.touch()
        time.sleep(600)
    record("second", 0.0)


@dg.job(executor_def=EXECUTOR)
def stopped_step() -> None:
    hears_nothing_once()


@dg.op(tags=ONE_DEVICE)
def has_children() -> None:
    """Like an inference engine: a process of its own session, that outlives its parent unless somebody ends it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    pids = [os.getpid(), os.getppid(), child.pid]
    part = Path(os.environ[FOLDER], "pids.part")
    part.write_text(json.dumps(pids))
    part.rename(Path(os.environ[FOLDER], "pids.json"))
    time.sleep(600)


@dg.job(executor_def=EXECUTOR)
def with_children() -> None:
    has_children()


if __name__ == "__main__":
    with dg.DagsterInstance.get() as instance:
        result = dg.execute_job(dg.reconstructable(globals()[sys.argv[1]]), instance=instance)
    sys.exit(0 if result.success else 1)
