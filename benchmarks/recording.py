"""The record of a benchmark, written the same way by every script: exactly what the ledger reads."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from leakage_assets.planning.hardware import this_cpu
from leakage_assets.planning.ledger import Result
from leakage_assets.store.files import write_atomically
from leakage_assets.store.provenance import environment


def commit_of(parser: argparse.ArgumentParser, given: str | None) -> str:
    """The commit that runs: `given`, or that of the checkout; without either the script ends and says so."""
    commit = given or environment()["git_commit"]
    if commit is None:
        parser.error("not a git checkout: name the commit with --commit")
    return str(commit)


def processor(on_gpu: bool) -> str:
    """The hardware as the driver names it, with the number of CPU cores beside a GPU."""
    import torch

    return f"{torch.cuda.get_device_name()}, {os.cpu_count()} CPU cores" if on_gpu else this_cpu().title


def write_result(
    output: Path,
    name: str,
    module: str,
    *,
    commit: str,
    hardware: str,
    figures: Mapping[str, Any],
    used: tuple[str, ...] = (),
    random_weights: bool = True,
) -> None:
    """Write `<output>`, whole or not at all.

    Args:
        module: the script, as `python -m` takes it.
        used: distributions whose versions are recorded, where installed, beside those of every artifact.
        random_weights: as almost every benchmark here runs on.
    """
    command = " ".join([f"python -m {module}", *_telling(sys.argv[1:])])
    versions = {**environment()["versions"], **_installed(used)}
    result = Result(name, command, commit, hardware, versions, random_weights, dict(figures))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, (json.dumps(asdict(result), indent=2) + "\n").encode())


def _telling(arguments: list[str]) -> list[str]:
    """Without --output, --work, --commit and their values: where files lay, and what the result says elsewhere."""
    return [
        argument
        for before, argument in zip(["", *arguments], arguments, strict=False)
        if not {before, argument.partition("=")[0]} & {"--output", "--work", "--commit"}
    ]


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
