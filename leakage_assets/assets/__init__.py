"""One module per stage of the lineage: an asset resolves its cells, calls the pipeline and returns metadata."""

from __future__ import annotations

from leakage_assets.assets.shared import shared_assets
from leakage_assets.assets.study_assets import study_assets

__all__ = ["shared_assets", "study_assets"]
