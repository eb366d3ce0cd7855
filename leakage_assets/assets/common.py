"""What every asset definition shares: keys, owners and how often cheap assets refresh themselves."""

from __future__ import annotations

import re

import dagster as dg

from leakage_assets.executor.tags import GPUS_TAG
from leakage_assets.profiles import Profile
from leakage_assets.studies.study import Study

OWNERS = ["team:leakage"]
ONE_GPU = {GPUS_TAG: "1"}

WHEN_INPUTS_CHANGE = dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing())
"""For cheap assets on a CPU only. A fan-in with missing partitions must still fire, hence the exclusion."""


def group(profile: Profile, stage: str) -> str:
    """The box of the lineage: the UI draws all profiles in one graph, and only a group's name tells them apart.

    Dagster allows letters, digits and underscores.
    """
    return f"{re.sub(r'[^A-Za-z0-9]', '_', profile.name)}_{stage}"


def asset_key(profile: Profile, study: Study | None, name: str) -> dg.AssetKey:
    """``[profile, study, asset]``; assets shared by the studies of a profile leave the study out."""
    return dg.AssetKey([profile.name, *([] if study is None else [study.name]), name])
