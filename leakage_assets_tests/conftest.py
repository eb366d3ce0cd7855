"""A finished small study, made once per test process; and copies of it to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from leakage_assets_tests.small_study import Finished, finish


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Every stage of the small study run once (about 20 s); no test may change it."""
    return finish(tmp_path_factory.mktemp("finished") / "artifacts")


@pytest.fixture
def root(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished artifacts."""
    return Path(shutil.copytree(finished.root, tmp_path / "artifacts"))
