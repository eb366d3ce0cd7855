"""kill -9 at any moment of a study loses little, repeats nothing finished, and changes no result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from leakage_assets.pipeline.conclusions import SCORES, analysis_tables
from leakage_assets.store.artifacts import ArtifactStore
from leakage_assets.store.files import sha256_file
from leakage_assets.store.samples import SampleStore
from leakage_assets_tests.small_study import (
    Finished,
    forbid_the_model,
    laboratory,
    made_anew,
    matching,
    run_all,
    small_profile,
)

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("crashing_pipeline.py")
POINTS = (
    "append:2",  # answers of one persona stored, those of the next only generated
    "committed:6",
    "step:8",  # in the middle of the third training
    "save:1",  # its adapter is written, but neither the digest nor the manifest
    "commit:2",  # it is in its place, its proof is not
    "step:7",  # some batches of samples are stored
    "append:3",
    "appended:4",  # samples are stored, but the artifact that says so is missing
    "commit:9",
)


def crash(mode: str, root: Path, *arguments: object) -> list[dict]:
    """What each killed run left; the study is finished afterwards."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), mode, str(root), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"killed_at"')]


def assert_like_undisturbed(
    root: Path, killed: list[dict], finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that was finished at a kill is still there, nothing is there twice, and every result is the same."""
    for run in killed:
        for name, sha256 in run["files"].items():
            path = root / name
            assert path.exists(), (run["killed_at"], name)
            assert sha256_file(path) == sha256, (run["killed_at"], name)
    ArtifactStore(root).sweep()
    leftovers = [path for path in root.rglob(".*") if path.name != ".lock"]
    assert leftovers == []
    forbid_the_model(monkeypatch)
    again = run_all(laboratory(root))
    assert made_anew(again) == set()
    stores = [SampleStore(folder) for folder in root.glob("tiny/**/shards/*") if folder.is_dir()]
    study = small_profile().studies[0]
    assert len(stores) == len(study.data.personas) + 2 * len(study.cells)
    for store in stores:
        ids = store.frame()["sample_id"]
        assert ids.n_unique() == ids.len()
    for name in matching(again, r"(ood_)?scores/.*"):
        mine, other = (pl.read_parquet(o[name].artifact.folder / SCORES) for o in (again, finished.outcomes))
        assert mine.equals(other), name
    mine, other = (analysis_tables(o["analysis"].artifact) for o in (again, finished.outcomes))
    assert mine.keys() == other.keys()
    for name, table in mine.items():
        assert table.equals(other[name]), name
    digests = [{name: o.artifact.manifest.digest for name, o in run.items()} for run in (again, finished.outcomes)]
    assert digests[0] == digests[1]


def test_kills_at_chosen_points(tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = crash("points", tmp_path, *POINTS)
    assert [run["killed_at"] for run in killed] == list(POINTS)
    counts = [len(run["files"]) for run in killed]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]
    assert_like_undisturbed(tmp_path, killed, finished, monkeypatch)


def test_kills_at_random_moments(tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = crash("random", tmp_path, 6, 1)
    assert len(killed) == 6
    assert_like_undisturbed(tmp_path, killed, finished, monkeypatch)
