"""Runs the small study and kills it half-way; a script, because a test cannot kill itself.

    crashing_pipeline.py random <root> <kills> <seed>       kills after random delays, then one run to the end
    crashing_pipeline.py points <root> <point> [<point>...] one run killed at each point, then one run to the end

A point is ``<kind>:<n>``, the n-th time that something of the kind happens in that run: ``step`` (an optimiser step
or a generated batch is done), ``append`` and ``appended`` (just before and after samples are stored), ``commit`` and
``committed`` (just before and after an artifact is put in its place), ``save`` (an adapter is half written).

Prints one JSON line per killed run: what it was killed at, and the finished files that it left. Every run is forked
from this process, which saves the imports; so nothing here may start a thread before the last fork.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from trl import SFTTrainer  # noqa: F401 - imported before the forks, as it takes seconds

from leakage_assets.generation import run
from leakage_assets.profiles import load_profile
from leakage_assets.progress import Progress
from leakage_assets.store import artifacts
from leakage_assets.store.samples import SampleStore
from leakage_assets_tests.small_study import laboratory, run_all

KINDS = ("step", "append", "appended", "commit", "committed", "save")


def finished_files(root: Path) -> dict[str, str]:
    """sha256 of every shard, and of every file of an artifact that has its manifest, by path."""
    folders = {manifest.parent for manifest in root.rglob("manifest.json") if not _temporary(manifest)}
    files = {path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    files |= {path for path in root.rglob("shards/*/*.parquet") if not _temporary(path)}
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def _temporary(path: Path) -> bool:
    return any(part.startswith((".tmp-", ".old-")) for part in path.parts)


class Killer:
    """Kills this process at the n-th event of a kind."""

    def __init__(self, kind: str, number: int) -> None:
        self.kind, self.number = kind, number
        self.seen: Counter[str] = Counter()

    def happens(self, kind: str) -> None:
        self.seen[kind] += 1
        if kind == self.kind and self.seen[kind] == self.number:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable, before: str | None, after: str | None) -> Callable:
        """The function, with events before and after each call."""

        def watched(*arguments, **named):  # type: ignore[no-untyped-def]
            if before is not None:
                self.happens(before)
            result = function(*arguments, **named)
            if after is not None:
                self.happens(after)
            return result

        return watched

    def install(self) -> None:
        Progress.advance = self.around(Progress.advance, None, "step")
        SampleStore.append = self.around(SampleStore.append, "append", "appended")
        artifacts._put_in_place = self.around(artifacts._put_in_place, "commit", "committed")
        PeftModel.save_pretrained = self.around(PeftModel.save_pretrained, None, "save")


def start(root: Path, killer: Killer | None = None) -> int:
    """Fork a run of the whole study; its process id."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        run.COMMIT_SECONDS = 0.0  # every batch is stored at once: more moments to be killed at
        if killer is not None:
            killer.install()
        run_all(laboratory(root))
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def status(child: int) -> int:
    """Wait for a run; 0 if it ended well, -9 if it was killed. Raises ``SystemExit`` for anything else."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"a run ended with {code}")
    return code


def report(root: Path, killed_at: str) -> None:
    print(json.dumps({"killed_at": killed_at, "files": finished_files(root)}), flush=True)


def kill_at_random(root: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(kills):
        child, delay = start(root), rng.uniform(0.2, 6.0)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        status(child)
        report(root, f"{delay:.2f} s")


def kill_at_points(root: Path, points: list[str]) -> None:
    for point in points:
        kind, _, number = point.partition(":")
        if kind not in KINDS:
            raise SystemExit(f"no kill point {kind!r}; there are {', '.join(KINDS)}")
        if status(start(root, Killer(kind, int(number)))) == 0:
            raise SystemExit(f"the run ended before {point}")
        report(root, point)


def main(mode: str, folder: str, *arguments: str) -> None:
    root = Path(folder)
    load_profile("tiny")
    if mode == "random":
        kill_at_random(root, *map(int, arguments))
    else:
        kill_at_points(root, list(arguments))
    if status(start(root)) != 0:
        raise SystemExit("the last run was killed by somebody else")


if __name__ == "__main__":
    main(*sys.argv[1:])
