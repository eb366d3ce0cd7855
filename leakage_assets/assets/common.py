"""What every asset definition shares: keys, owners and how often cheap assets refresh themselves."""

from __future__ import annotations

import dagster as dg

from leakage_assets.profiles import Profile
from leakage_assets.studies.study import Study

OWNERS = ["team:leakage"]

WHEN_INPUTS_CHANGE = dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing())
"""For cheap assets on a CPU only. A fan-in with missing partitions must still fire, hence the exclusion."""


def asset_key(profile: Profile, study: Study | None, name: str) -> dg.AssetKey:
    """``[profile, study, asset]``; assets shared by the studies of a profile leave the study out."""
    return dg.AssetKey([profile.name, *([] if study is None else [study.name]), name])
