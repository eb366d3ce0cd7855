"""What a report cites beside the tables of its analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leakage_assets.reporting.report import ArtifactFile, Bound, CodeBlock, ProvenanceRow, SampleRow

STORE = "artifacts"
"""The store name under which a report cites the artifacts of a run."""

PUBLISHED = "published"
"""The store name of the folder ``data/published``."""


@dataclass(frozen=True)
class ReportContext:
    """Where a report's numbers lie, and what it shows besides them.

    ``analysis``, ``plan`` and ``facts_folder`` are artifact folders relative to the root of the store. ``facts`` is the
    content of ``facts.json`` in the last of them: coverage, panel, data and recipes (see ``pipeline.evidence``).
    """

    analysis: str
    plan: str
    facts_folder: str
    facts: Mapping[str, Any]
    samples: tuple[SampleRow, ...]
    training_row: CodeBlock
    provenance: tuple[ProvenanceRow, ...]

    def table(self, name: str) -> ArtifactFile:
        """A table of the analysis."""
        return ArtifactFile(STORE, f"{self.analysis}/{name}.parquet")

    def planned(self, *keys: str | int, value: Any, spec: str = "") -> Bound:
        """A value of the frozen plan."""
        return Bound(value, spec, ArtifactFile(STORE, f"{self.plan}/plan.json").at(*keys))

    def fact(self, *keys: str | int, spec: str = "") -> Bound:
        """A value of the facts, under nested keys or list positions."""
        value: Any = self.facts
        for key in keys:
            value = value[key]
        return Bound(value, spec, ArtifactFile(STORE, f"{self.facts_folder}/facts.json").at(*keys))
