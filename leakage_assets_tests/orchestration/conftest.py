"""A place where the small location's training sets are made once, and copies of it to run cells in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from leakage_assets.materialise import StudyRuns
from leakage_assets.profiles import load_profile
from leakage_assets_tests.orchestration.small_location import NAME
from leakage_assets_tests.orchestration.workshop import Workshop


@pytest.fixture(scope="session")
def foundations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts of the small location up to its training sets; no test may change them."""
    import torch

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("foundations") / "artifacts"
    profile = load_profile(NAME)
    (study,) = profile.studies
    with dg.DagsterInstance.ephemeral() as instance:
        runs = StudyRuns(profile, study, instance=instance, artifacts=root)
        assert len(list(runs.foundations(study.cells))) == 3
    return root


@pytest.fixture(autouse=True)
def own_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the machine, where real work may hold the devices for hours."""
    monkeypatch.setenv("LEAKAGE_LEASES", str(tmp_path / "leases"))


@pytest.fixture
def workshop(foundations: Path, tmp_path: Path) -> Iterator[Workshop]:
    """A copy of the foundations with an empty Dagster instance."""
    root = Path(shutil.copytree(foundations, tmp_path / "artifacts"))
    with dg.DagsterInstance.ephemeral() as instance:
        yield Workshop(root, instance)
