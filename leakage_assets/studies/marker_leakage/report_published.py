"""Section Published and this run of the report of marker leakage: the published numbers beside those of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from leakage_assets.reporting.report import ABSENT, Block, Bound, Column, Table
from leakage_assets.statistics.layers import POOLED
from leakage_assets.studies.citations import RHO, Citations, Row
from leakage_assets.studies.marker_leakage.labels import source_name
from leakage_assets.studies.marker_leakage.report_results import source_row
from leakage_assets.studies.report_parts import published_elsewhere, published_figures

PUBLISHED_FILE = "marker_leakage.json"


def published_and_this_run(cite: Citations) -> Iterator[Block]:
    yield published_elsewhere(
        cite,
        "The published study ran on `Qwen2.5-7B-Instruct` with recipe `marker_only` and one seed",
        "Single rates of the published run repeat to about ten points of a hundred.",
        here=f" with recipe `{cite.recipe}`",
    )
    known = published_figures(PUBLISHED_FILE)
    yield _published_table(cite, known, "Correlations at the primary layer", {
        "rho": ("spearman_rho", "ρ, published", "ρ, this run"),
        "r": ("pearson_r", "r, published", "r, this run"),
    })  # fmt: skip
    yield _published_table(cite, known, "Marker rates", {
        "own": ("source_pct", "own prompt, published (%)", "this run"),
        "others": ("mean_bystander_pct", "bystanders, published (%)", "this run"),
    })  # fmt: skip
    yield from _published_layers(cite, known)


def _published_table(
    cite: Citations,
    known: Mapping[tuple[str, str, str], Bound],
    caption: str,
    metrics: Mapping[str, tuple[str, str, str]],
) -> Table:
    columns = [Column("source", "source")]
    for key, (_, published, run) in metrics.items():
        columns += [Column(f"{key}_published", published), Column(key, run)]
    finished = (*cite.finished_sources(), POOLED)
    rows = []
    for source in (*cite.study.sources, POOLED):
        row: Row = source_row(cite, source) if source in finished else {"source": source_name(source)}
        for key, (metric, _, _) in metrics.items():
            row[f"{key}_published"] = known.get(("headline", source, metric), ABSENT)
        rows.append({column.key: row.get(column.key, ABSENT) for column in columns})
    return Table(f"{caption}; a dash where a number does not exist.", tuple(columns), tuple(rows))


def _published_layers(cite: Citations, known: Mapping[tuple[str, str, str], Bound]) -> Iterator[Block]:
    """Pooled correlations by layer, where this run has the published layers."""
    shared = [layer for layer in cite.plan.layers if ("layers", f"pooled L{layer}", "spearman_rho") in known]
    if not shared:
        return
    columns = (Column("layer", "block output"), Column("published", "published"), Column("run", "this run"))
    keys = {"recipe": cite.recipe, "source": POOLED, "name": "spearman"}
    yield Table(
        "Pooled ρ by layer.",
        columns,
        tuple(
            {
                "layer": f"`{layer}`",
                "published": known["layers", f"pooled L{layer}", "spearman_rho"],
                "run": cite.bound("layers", "estimate", RHO, **keys, layer=layer),
            }
            for layer in shared
        ),
    )
