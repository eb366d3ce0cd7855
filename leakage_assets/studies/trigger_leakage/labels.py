"""How the report of trigger leakage calls and prints what it cites."""

from __future__ import annotations

from leakage_assets.geometry.prompt_axes import LEXICAL, SEMANTIC, STRUCTURAL, TASK
from leakage_assets.studies.citations import POINTS, RATE, RHO
from leakage_assets.studies.trigger_leakage.cells import JS
from leakage_assets.studies.trigger_leakage.design import TITRATED
from leakage_assets.studies.trigger_leakage.gates import EVERY_SOURCE, TOGETHER

RATIO, CHANGE = "z.2f", POINTS

HEADLINE = {
    "matched_rate_own": ("Rate under the own prompt", RATE),
    "bystander_rate_own": ("Rate under bystanders of other families and controls", RATE),
    "gating_difference_own": ("Own prompt minus bystanders", CHANGE),
    "gating_ratio_own": ("Own prompt over bystanders", RATIO),
    "matched_rate_bucket": ("Rate under the prompts of all four triggers (published definition)", RATE),
    "bystander_rate_bucket": ("Rate under all bystanders and controls (published definition)", RATE),
    "gating_difference_bucket": ("Matched minus bystanders (published definition)", CHANGE),
    "gating_ratio_bucket": ("Matched over bystanders (published definition)", RATIO),
    "gating_ratio_over_triggers": ("Own prompt over bystanders, over triggers", RATIO),
    "own_against_other_triggers": ("Own prompt minus the other trained prompts", CHANGE),
    "control_max_rate": ("Largest marker rate of a cell of the control", RATE),
    "control_marker_rate": ("Marker rate of the control", RATE),
    "held_out_r2": ("Held-out R² of the four axes", RHO),
    "held_out_r2_reduced": ("Held-out R² of the semantic axis", RHO),
    "held_out_gap": ("Gap in held-out R² to the semantic axis", "+.3f"),
    "held_out_rank_correlation": ("Held-out rank correlation of the four axes", RHO),
    "family_preference": ("What the own family adds to the rate (format adapters)", CHANGE),
    "semantic_lead_strong": ("Lead of meaning over wording, strong recipe", RHO),
    "semantic_lead_gentle": ("Lead of meaning over wording, gentle recipe", RHO),
    "semantic_lead_change": ("Lead of meaning over wording, gentle less strong recipe", RHO),
    "persona_minus_trigger_specificity": ("Specificity of the persona minus that of the triggers", RHO),
    "emission_change": ("Own rate at the high learning rate minus that at the low, over sources", CHANGE),
    "specificity_change": ("Specificity at the high learning rate minus that at the low, over sources", RHO),
    "emission_change_titrated": (f"The change of the own rate of {TITRATED} alone, over questions", CHANGE),
    "specificity_change_titrated": (f"The change of the specificity of {TITRATED} alone, over questions", RHO),
    "prompt_effect_triggers": ("What the own prompt adds after a given answer", CHANGE),
    "content_effect_triggers": ("What the own answer adds", CHANGE),
    "both_effect_triggers": ("What both add", CHANGE),
    "declarative_difference": ("Declarative rewrite minus instruction", CHANGE),
    "prompt_variance_ratio": ("Variance between prompts over what is left", RATIO),
}
"""How each headline statistic is called and printed."""

AXIS_NAMES = {
    SEMANTIC: "semantic cosine",
    LEXICAL: "lexical Jaccard",
    STRUCTURAL: "structural match",
    TASK: "task match",
    JS: "JS divergence",
}

DEFINITION_NAMES = {"own": "own trigger", "bucket": "bucket, as published"}

MODEL_NAMES = {
    ("least_squares", "classical"): "OLS, classical",
    ("least_squares", "pair"): "OLS, by (trigger, prompt)",
    ("least_squares", "prompt"): "OLS, by prompt",
    ("least_squares", "two_way"): "OLS, by trigger and prompt",
    ("mixed", "prompt"): "mixed, a random level of every prompt",
    ("fixed_effects", "classical"): "a fixed level of every trigger and prompt",
}
"""(model, errors) in words."""


def source_name(name: str) -> str:
    """A source, or the row of several together, in a table."""
    return {TOGETHER: "**all triggers**", EVERY_SOURCE: "**over sources**"}.get(name, f"`{name}`")
