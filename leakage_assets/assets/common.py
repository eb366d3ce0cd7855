"""What every asset definition shares: keys, owners and how often cheap assets refresh themselves."""

from __future__ import annotations

import re
import warnings

import dagster as dg

from leakage_assets.executor.tags import GPUS_TAG
from leakage_assets.profiles import Profile
from leakage_assets.studies.study import Study

# Ranged runs and partitioned checks are what this project is built on; their status is noted in CONTRIBUTING.md.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

OWNERS = ["team:leakage"]
ONE_GPU = {GPUS_TAG: "1"}
RETRIES = dg.RetryPolicy(max_retries=2, delay=5)
"""For steps that need a GPU: their process may be killed, or its device or engine die. What is finished is kept."""

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
