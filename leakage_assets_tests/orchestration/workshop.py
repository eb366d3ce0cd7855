"""The small location's assets over one artifact root, run in process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from leakage_assets.assets import shared_assets, study_assets
from leakage_assets.assets.common import asset_key
from leakage_assets.materialise import QUIET
from leakage_assets.partitions import partition_key, range_tags
from leakage_assets.profiles import Profile, load_profile
from leakage_assets.resources import LaboratoryResource
from leakage_assets.studies.study import Cell, Study
from leakage_assets_tests.orchestration.small_location import NAME


@dataclass(frozen=True)
class Workshop:
    """The small location's assets over an artifact root and a Dagster instance of their own."""

    root: Path
    instance: dg.DagsterInstance

    @property
    def profile(self) -> Profile:
        return load_profile(NAME)

    @property
    def study(self) -> Study:
        return self.profile.studies[0]

    def key(self, name: str) -> dg.AssetKey:
        return asset_key(self.profile, self.study, name)

    def keys(self, seed: int) -> list[dg.MultiPartitionKey]:
        """The partition keys of every condition of a seed, in order."""
        return [partition_key(Cell(condition, seed)) for condition in self.study.conditions]

    @property
    def assets(self) -> list[dg.AssetsDefinition]:
        return [*shared_assets(self.profile), *study_assets(self.profile, self.study)]

    def asset(self, key: dg.AssetKey) -> dg.AssetsDefinition:
        """The definition of an asset, shared or of the study."""
        (found,) = [asset for asset in self.assets if key in asset.keys]
        return found

    def run(self, names: Sequence[str], tags: Mapping[str, str]) -> dg.ExecuteInProcessResult:
        """One run of these assets of the study."""
        return self.run_keys([self.key(name) for name in names], tags)

    def run_keys(self, keys: Sequence[dg.AssetKey], tags: Mapping[str, str]) -> dg.ExecuteInProcessResult:
        """One run of these assets, shared or of the study."""
        return dg.materialize(
            self.assets,
            selection=list(keys),
            instance=self.instance,
            resources={"laboratory": LaboratoryResource(profile=NAME, artifacts=str(self.root))},
            run_config=QUIET,
            tags=dict(tags),
            raise_on_error=False,
        )

    def run_seed(self, names: Sequence[str], seed: int, **tags: str) -> dg.ExecuteInProcessResult:
        """One run over every condition of a seed."""
        return self.run(names, range_tags(self.keys(seed)) | tags)

    def materialised(self, name: str) -> set[str]:
        """Keys of the partitions that Dagster shows as materialised."""
        return self.instance.get_materialized_partitions(self.key(name))
