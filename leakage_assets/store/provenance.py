"""How and by what an artifact was made: recorded in its manifest, never part of its identity."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib import metadata
from typing import Any

from leakage_assets.paths import REPO

LIBRARIES = ("torch", "transformers", "peft", "trl", "polars", "numpy", "scipy")
GIT_TIMEOUT = 10.0
"""Seconds; a repository on a hanging network disk must not hold up a run."""


def environment() -> dict[str, Any]:
    """Versions, platform and git commit of this process, looked up once.

    Keys: versions (python and the installed of LIBRARIES), platform, git_commit and git_dirty (None where the
    code does not run from a git checkout or git does not answer; dirty counts untracked files).
    """
    return {
        "versions": dict(_versions()),
        "platform": platform.platform(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if (changes := _git("status", "--porcelain")) is None else bool(changes),
    }


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    versions = [("python", platform.python_version())]
    for library in LIBRARIES:
        try:
            versions.append((library, metadata.version(library)))
        except metadata.PackageNotFoundError:  # a plain CPU or statistics install has no torch
            continue
    return tuple(versions)


@functools.cache
def _git(*arguments: str) -> str | None:
    """What git prints about this checkout, or None; never the answer of a repository around it."""
    if not (REPO / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(REPO), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=GIT_TIMEOUT,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
