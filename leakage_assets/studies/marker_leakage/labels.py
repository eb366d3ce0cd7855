"""How the report of marker leakage calls and prints what it cites."""

from __future__ import annotations

from leakage_assets.statistics.layers import POOLED
from leakage_assets.studies.citations import RATE, RHO

HEADLINE = {
    "pooled_spearman": ("Pooled ρ of cosine and marker rate", RHO),
    "within_source_spearman": ("The same, ranks within each source", RHO),
    "pooled_spearman_question_bootstrap": ("Pooled ρ, questions resampled", RHO),
    "pooled_spearman_js": ("Pooled ρ of JS divergence and marker rate", RHO),
    "mean_source_rate": ("Mean source rate", RATE),
    "mean_bystander_rate": ("Mean bystander rate", RATE),
    "bystander_to_source_ratio": ("Bystander rate / source rate", ".2f"),
    "mean_source_rate_source_bootstrap": ("Mean source rate, sources resampled", RATE),
    "mean_bystander_rate_source_bootstrap": ("Mean bystander rate, sources resampled", RATE),
    "bystander_to_source_ratio_source_bootstrap": ("Bystander rate / source rate, sources resampled", ".2f"),
    "sources_learned": ("Sources that learned the marker", ".0f"),
    "sources_gated": ("Sources whose leakage is gated", ".0f"),
    "control_marker_rate": ("Marker rate of the control recipe", RATE),
}
"""How each headline statistic is called and printed."""


def source_name(name: str) -> str:
    """A source, or the row of all pairs, in the first column of a table."""
    return "**all pairs**" if name == POOLED else f"`{name}`"
