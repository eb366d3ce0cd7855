"""A finished small study, made once per test process; and copies of it to change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import hypothesis
import pytest

from leakage_assets_tests.small_study import Finished, finish

# Read when torch is imported. The models of the tests are so small that threads cost more than they save: on a busy
# machine ten times as much.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long one example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile("no time limit", deadline=None)
hypothesis.settings.load_profile("no time limit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: a worker takes a whole file, and would else begin the longest ones last."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Every stage of the small study run once (about 20 s); no test may change it."""
    return finish(tmp_path_factory.mktemp("finished") / "artifacts")


@pytest.fixture
def root(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished artifacts."""
    return Path(shutil.copytree(finished.root, tmp_path / "artifacts"))
