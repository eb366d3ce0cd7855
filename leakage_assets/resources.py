"""The one resource of every asset: which profile, and where its artifacts live."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import dagster as dg

from leakage_assets.paths import ARTIFACTS
from leakage_assets.pipeline.laboratory import Laboratory
from leakage_assets.profiles import load_profile
from leakage_assets.store.artifacts import ArtifactStore
from leakage_assets.store.shared_root import require_expected_store
from leakage_assets.training.train import ReportTo

REFRESH_TAG = "leakage/refresh"
"""Run tag: finished cells are made anew unless they were made under the same value of this tag."""


class LaboratoryResource(dg.ConfigurableResource[Laboratory]):
    """Opens the laboratory of a profile for a run.

    With ``report_to: wandb`` in the run's configuration the training curves also go to Weights & Biases (into the
    offline folder ``wandb/`` unless WANDB_MODE says otherwise).
    """

    profile: str
    artifacts: str = str(ARTIFACTS)
    progress: Literal["log", "terminal"] = "log"
    report_to: ReportTo = "none"

    def open(self, context: dg.AssetExecutionContext) -> Laboratory:
        """The laboratory under this run's refresh tag; progress goes to the run's log, or to the terminal.

        Raises:
            OtherStore: in a step on another host, whose artifact root is not the store of the run.
        """
        root = Path(self.artifacts)
        require_expected_store(root)
        return Laboratory(
            profile=load_profile(self.profile),
            store=ArtifactStore(root),
            refresh=context.run_tags.get(REFRESH_TAG),
            emit=context.log.info if self.progress == "log" else None,
            report_to=self.report_to,
        )
