"""The lineage of one study: every asset under ``[profile, study]``."""

from __future__ import annotations

import dagster as dg

from leakage_assets.assets.conclusion_assets import conclusion_assets
from leakage_assets.assets.geometry_assets import geometry_assets
from leakage_assets.assets.sample_assets import sample_assets
from leakage_assets.assets.training_assets import training_assets
from leakage_assets.profiles import Profile
from leakage_assets.studies.study import Study


def study_assets(profile: Profile, study: Study) -> list[dg.AssetsDefinition]:
    """All assets of a study; a new study needs no code here."""
    return [
        *training_assets(profile, study),
        *sample_assets(profile, study),
        *geometry_assets(profile, study),
        *conclusion_assets(profile, study),
    ]
