from __future__ import annotations

import os
from pathlib import Path

import pytest

from leakage_assets.paths import REPO


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of published numbers, which is not part of the repository."""
    folder = Path(os.environ.get("LEAKAGE_PUBLISHED", REPO.parent / "shared" / "published"))
    if not folder.is_dir():
        pytest.skip(f"no published numbers at {folder}; set LEAKAGE_PUBLISHED to their folder")
    return folder
