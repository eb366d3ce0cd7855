"""The lineage of one study: every asset under ``[profile, study]``."""

from __future__ import annotations

import dagster as dg

from leakage_assets.assets.cell_assets import cell_assets
from leakage_assets.assets.conclusion_assets import conclusion_assets
from leakage_assets.assets.geometry_assets import geometry_assets
from leakage_assets.assets.precheck_assets import precheck_assets
from leakage_assets.assets.score_assets import score_assets
from leakage_assets.assets.training_set_asset import training_set_asset
from leakage_assets.profiles import Profile
from leakage_assets.studies.study import Study

PRECHECKS = "prechecks"


def foundation_names(study: Study) -> list[str]:
    """The assets of a study that every cell needs and no partition has."""
    names = ["analysis_plan", "persona_centroids", "prompt_similarity"]
    return names if study.prechecks is None else [*names, PRECHECKS]


def study_assets(profile: Profile, study: Study) -> list[dg.AssetsDefinition]:
    """All assets of a study; a new study needs no code here."""
    return [
        *precheck_assets(profile, study),
        training_set_asset(profile, study),
        cell_assets(profile, study),
        *score_assets(profile, study),
        *geometry_assets(profile, study),
        *conclusion_assets(profile, study),
    ]
