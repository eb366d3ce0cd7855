from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from leakage_assets.paths import REPO
from leakage_assets.studies.marker_leakage.reproduction import COLUMNS


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of published numbers, which is not part of the repository."""
    given = os.environ.get("LEAKAGE_PUBLISHED")
    folder = Path(given or REPO.parent / "shared" / "published")
    if given and not folder.is_dir():
        pytest.fail(f"LEAKAGE_PUBLISHED names {folder}, which is no folder")
    if not folder.is_dir():
        pytest.skip(f"no published numbers at {folder}; set LEAKAGE_PUBLISHED to their folder")
    return folder


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    """A copy of the published tables of marker_leakage, to change."""
    for name in COLUMNS:
        shutil.copyfile(published / name, tmp_path / name)
    return tmp_path


def edit(folder: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Path:
    """Change one table of the copy."""
    frame = change(pl.read_csv(folder / name))
    frame.write_csv(folder / name)
    return folder
