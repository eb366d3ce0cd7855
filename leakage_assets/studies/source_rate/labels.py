"""How the report of source rate calls and prints what it cites."""

from __future__ import annotations

from leakage_assets.studies.citations import RATE, RHO

HEADLINE = {
    "spearman": ("ρ of cosine and source rate", RHO),
    "pearson": ("r of cosine and source rate", RHO),
    "spearman_without_reference": ("ρ without the reference", RHO),
    "new_sources_inside": ("New sources inside the prediction interval", ".0f"),
    "new_sources_equivalent": ("New sources shown to be near the line", ".0f"),
    "widest_half_width": ("Wider half of the prediction intervals", RATE),
    "refit_coverage_published": ("New sources inside after dropping one of all", RATE),
    "refit_coverage_fitted": ("New sources inside after dropping one of the fitted", RATE),
    "held_out_coverage": ("Sources inside the interval of all others", RATE),
    "partial_spearman": ("Partial ρ, prompt length held fixed", RHO),
    "partial_spearman_published": ("The same as published, ρ of the rank residuals", RHO),
    "variance_inflation": ("Variance inflation by prompt length", ".2f"),
    "layers_significant": ("Layers with an adjusted p below the threshold", ".0f"),
    "drop_one_spearman": ("ρ without the source that costs most", RHO),
    "drops_above_alpha": ("Sources without which p exceeds the threshold", ".0f"),
    "log_odds_slope_over_questions": ("Log-odds per unit of cosine, over questions", RHO),
    "log_odds_slope_over_sources": ("Log-odds per unit of cosine, over sources", RHO),
    "control_marker_rate": ("Marker rate of the control recipe", RATE),
}
"""How each headline statistic is called and printed."""

EVERYONE = "all"


def source_name(name: str) -> str:
    """A source, or the row of all of them, in a table."""
    return "**all sources**" if name == EVERYONE else f"`{name}`"
