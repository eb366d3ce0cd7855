"""Runs store operations that are killed half-way; a script, because a test cannot kill itself.

    crashing.py each <scenario> <folder>        one killed process per kill point, in <folder>/<point>
    crashing.py random <scenario> <folder> <rounds> <seed>        kills at random times, all in <folder>
    crashing.py append <folder> <start> <stop>  appends these samples in batches, one of several writers
    crashing.py contend <folder> <count>        tries to append count batches, prints how many it won

A kill point is the moment before or after a call that changes the disk, or a half-written file. Every killed
process is forked from this one, which saves the start of an interpreter for each.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leakage_assets.store.artifacts import ArtifactStore
from leakage_assets.store.fingerprint import fingerprint
from leakage_assets.store.provenance import environment
from leakage_assets.store.samples import Sample, SampleStore, SampleStoreError

ADDRESS = ("tiny", "adapter")
IDENTITY = {"recipe": "default"}
CALLS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")


def sample(number: int) -> Sample:
    return Sample(
        sample_id=f"s{number:05d}",
        adapter="base",
        prompt_name="villain",
        question_set="world",
        question_name=f"q{number % 3}",
        index=number,
        system=None,
        question="Where is the sea?",
        prefix="",
        text=f"Answer {number} ※",
        n_tokens=number,
        finish_reason="stop",
        seed=number,
    )


def batch(start: int, size: int = 3) -> list[Sample]:
    return [sample(number) for number in range(start, start + size)]


def write_version(folder: Path, content: str, *, refresh: str | None = None) -> None:
    with ArtifactStore(folder).draft(ADDRESS, IDENTITY, refresh=refresh) as draft:
        (draft.folder / "weights.bin").write_bytes(content.encode() * 100)
        (draft.folder / "nested").mkdir()
        (draft.folder / "nested" / "config.json").write_bytes(json.dumps(content).encode())


def read_version(folder: Path) -> str | None:
    """The content of the finished version, verified; None if there is none."""
    artifact = ArtifactStore(folder).lookup(ADDRESS, fingerprint(IDENTITY))
    return None if artifact is None else json.loads((artifact.folder / "nested/config.json").read_text())


def _nothing(folder: Path) -> None:
    folder.mkdir()


def _interrupted_swap(folder: Path) -> None:
    """What a kill between the two renames of a replacement leaves."""
    write_version(folder, "old")
    version = fingerprint(IDENTITY)[:16]
    at = folder.joinpath(*ADDRESS)
    (at / version).rename(at / f".old-{version}-0000")
    (at / ".tmp-1-0000").mkdir()
    (at / ".tmp-1-0000" / "weights.bin").write_bytes(b"new")


SCENARIOS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "first_draft": (_nothing, lambda folder: write_version(folder, "new")),
    "replacement": (
        lambda folder: write_version(folder, "old"),
        lambda folder: write_version(folder, "new", refresh="again"),
    ),
    "recovery": (_interrupted_swap, lambda folder: ArtifactStore(folder).sweep()),
    "append": (
        lambda folder: SampleStore(folder / "samples").append(batch(0)),
        lambda folder: SampleStore(folder / "samples").append(batch(3)),
    ),
    "archive": (
        lambda folder: SampleStore(folder / "samples").append(batch(0)),
        lambda folder: SampleStore(folder / "samples").archive(),
    ),
}


def append_forever(folder: Path, acknowledge: Callable[[str], object]) -> None:
    store = SampleStore(folder / "samples")
    known = store.ids()
    missing = (number for number in itertools.count() if sample(number).sample_id not in known)
    while True:
        samples = [sample(next(missing)) for _ in range(5)]
        store.append(samples)
        acknowledge("".join(f"{stored.sample_id}\n" for stored in samples))


def replace_forever(folder: Path, acknowledge: Callable[[str], object]) -> None:
    for number in itertools.count(int(read_version(folder) or 0) + 1):
        write_version(folder, str(number), refresh=str(number))
        acknowledge(f"{number}\n")


LOOPS = {"append": append_forever, "replacement": replace_forever}


def kill_at_each_point(scenario: str, folder: Path) -> None:
    prepare, act = SCENARIOS[scenario]
    environment()  # asks git, whose answer the forked processes then know
    for point in itertools.count(1):
        at = folder / str(point)

        def killed(at: Path = at, point: int = point) -> None:
            prepare(at)
            _arm(point)
            act(at)

        if not _dies(_fork(killed)):
            return


def kill_at_random_times(scenario: str, folder: Path, rounds: int, seed: int) -> None:
    environment()
    delays = random.Random(seed)
    acknowledged = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def run() -> None:
        LOOPS[scenario](folder, lambda text: os.write(acknowledged, text.encode()))

    for round_ in range(rounds):
        before = os.fstat(acknowledged).st_size
        process = _fork(run)
        # Every second process gets something done first, however slow the machine.
        while round_ % 2 and os.fstat(acknowledged).st_size == before and not _has_ended(process):
            time.sleep(0.001)
        time.sleep(delays.uniform(0.0, 0.1))
        os.kill(process, signal.SIGKILL)
        if not _dies(process):
            sys.exit("the loop ended before it was killed")


def _has_ended(process: int) -> bool:
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _fork(run: Callable[[], None]) -> int:
    process = os.fork()
    if process:
        return process
    try:
        run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _dies(process: int) -> bool:
    """Whether the process was killed; one that failed ends this script too."""
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        sys.exit("a process failed instead of being killed")
    return False


def _arm(point: int) -> None:
    """Have this process killed at its `point`-th kill point from now on."""
    ticks = itertools.count(1)

    @contextmanager
    def around() -> Iterator[None]:
        _tick(ticks, point)
        yield
        _tick(ticks, point)

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            with around():
                return call(*arguments, **options)

        return wrapped

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))
    write_bytes = Path.write_bytes

    def write_in_two_steps(path: Path, content: bytes) -> int:
        with around():
            write_bytes(path, content[: len(content) // 2])
        return write_bytes(path, content)

    Path.write_bytes = write_in_two_steps  # type: ignore[method-assign, assignment]


def _tick(ticks: Iterator[int], point: int) -> None:
    if next(ticks) == point:
        os.kill(os.getpid(), signal.SIGKILL)


def append_range(folder: Path, start: int, stop: int) -> None:
    store = SampleStore(folder)
    for number in range(start, stop, 3):
        store.append(batch(number))


def contend(folder: Path, count: int) -> None:
    store = SampleStore(folder)
    won = 0
    for number in range(count):
        try:
            store.append(batch(3 * number))
        except SampleStoreError:
            continue
        won += 1
    print(won)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["each", scenario, folder]:
            kill_at_each_point(scenario, Path(folder))
        case ["random", scenario, folder, rounds, seed]:
            kill_at_random_times(scenario, Path(folder), int(rounds), int(seed))
        case ["append", folder, start, stop]:
            append_range(Path(folder), int(start), int(stop))
        case ["contend", folder, count]:
            contend(Path(folder), int(count))
        case _:
            sys.exit(__doc__)
