"""Cells of a small study through all stages of Dagster with its real models, and what is then asked of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import pytest

from leakage_assets.assets.common import asset_key
from leakage_assets.materialise import StudyRuns
from leakage_assets.paths import DATA
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.pipeline.publication import stable_report
from leakage_assets.profiles import PROFILES, Profile, load_profile
from leakage_assets.reporting.lint import lint_html
from leakage_assets.stimuli import Stimuli
from leakage_assets.store.artifacts import ArtifactStore
from leakage_assets.studies.study import Study
from leakage_assets_tests.small_study import small_profile


def add_small_profile(name: str, study: str, small: Callable[[Study], Study]) -> None:
    """A profile of this name with one study of the tiny profile, made small."""

    def profile(stimuli: Stimuli) -> Profile:
        only = small(PROFILES["tiny"](stimuli).study(study))
        return replace(small_profile(study=only, stimuli=stimuli), name=name, generation_batch=128)

    PROFILES[name] = profile


@dataclass(frozen=True)
class WholeRun:
    """A run, the laboratory it was in, and what Dagster says of it; ``again`` runs the same once more."""

    lab: Laboratory
    study: Study
    instance: dg.DagsterInstance
    stages: tuple[str, ...]
    again: Callable[[], tuple[str, ...]]

    def key(self, name: str) -> dg.AssetKey:
        return asset_key(self.lab.profile, self.study, name)

    def materialised(self, name: str, *, shared: bool = False) -> set[str]:
        """Keys of the partitions of an asset that Dagster shows as materialised."""
        key = asset_key(self.lab.profile, None, name) if shared else self.key(name)
        return self.instance.get_materialized_partitions(key)

    def conditions(self, name: str) -> set[str]:
        """Those with a materialised cell of an asset."""
        return {str(key).split("|")[0] for key in self.materialised(name)}

    def findings(self) -> list:
        """What the lint holds against the report."""
        stores = {"artifacts": self.lab.store.root, "published": DATA / "published"}
        return lint_html(stable_report(self.lab, self.study).read_text(), stores)

    def manifests(self) -> dict[Path, int]:
        """When the manifest of each artifact was written, in ns."""
        return {path: path.stat().st_mtime_ns for path in self.lab.store.root.rglob("manifest.json")}


@contextmanager
def whole_run(
    root: Path,
    profile_name: str,
    study_name: str,
    *,
    sources: Sequence[str] | None = None,
    recipes: Sequence[str] | None = None,
    extras: bool = True,
) -> Iterator[WholeRun]:
    """A run of the cells of these sources and recipes, of all where None, with leases of its own."""
    import torch

    torch.set_num_threads(1)
    profile, artifacts = load_profile(profile_name), root / "artifacts"
    study = profile.study(study_name)
    cells = study.chosen_cells(sources, recipes, None)
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("LEAKAGE_LEASES", str(root / "leases"))

        def run() -> tuple[str, ...]:
            return tuple(StudyRuns(profile, study, instance=instance, artifacts=artifacts).all_stages(cells, extras))

        yield WholeRun(Laboratory(profile, ArtifactStore(artifacts)), study, instance, run(), run)
