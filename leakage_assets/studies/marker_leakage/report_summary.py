"""The top of the report of marker leakage: title, TL;DR and the summary in five claims."""

from __future__ import annotations

from collections.abc import Iterator

from leakage_assets.reporting.report import Claim
from leakage_assets.statistics.layers import POOLED
from leakage_assets.studies.citations import Citations
from leakage_assets.studies.report_parts import (
    interval_or_none,
    sample_size,
    summary_claims,
    value,
    verdict,
)


def title(cite: Citations) -> str:
    if verdict(cite, "H1") == "undecided":
        return "it is undecided whether persona geometry predicts marker leakage"
    rho = f"pooled ρ = {cite.headline('pooled_spearman')}"
    if verdict(cite, "H1") == "supported":
        return f"personas closer to the source leak its marker more ({rho})"
    threshold = cite.cell("verdicts", "threshold", ".2g", statistic="pooled_spearman")
    return f"persona geometry predicts marker leakage less than planned ({rho}, threshold {threshold})"


def tldr(cite: Citations) -> list[str]:
    return [_claim(cite), _gating(cite)]


def _claim(cite: Citations) -> str:
    name = "pooled_spearman"
    if value(cite, name) is None:
        return f"**Geometry:** no correlation ({cite.headline(name, 'undefined', '')})."
    return (
        f"**Geometry:** over {_pairs(cite)} pairs of source and bystander, base-model cosine and marker rate have "
        f"a rank correlation of **{cite.headline(name)}** ({interval_or_none(cite, name)}, p = "
        f"{cite.headline(name, 'p', 'p')}, {sample_size(cite, name)}); with ranks taken within each source it is "
        f"{cite.headline('within_source_spearman')} (exploratory)."
    )


def _pairs(cite: Citations) -> str:
    keys = {"recipe": cite.recipe, "layer": cite.plan.primary_layer, "source": POOLED, "name": "spearman"}
    return cite.cell("correlations", "n", ",d", **keys)


def _gating(cite: Citations) -> str:
    text = (
        f"**Gating:** the marker follows {cite.headline('mean_source_rate')} of answers under the source's own "
        f"prompt and {cite.headline('mean_bystander_rate')} under bystanders' prompts"
    )
    ratio = "bystander_to_source_ratio"
    if value(cite, ratio) is None:
        return f"{text}."
    return f"{text} (ratio {cite.headline(ratio)}, {sample_size(cite, ratio)})."


def summary(cite: Citations) -> tuple[Claim, ...]:
    facts = cite.fact
    geometry = {
        "supported": "Closeness in the base model predicts which bystanders emit the marker",
        "not supported": "Closeness in the base model predicts leakage less than the plan asks for",
        "undecided": "Whether closeness in the base model predicts leakage is open",
    }
    gate = {
        "supported": "the marker stays mostly with its source",
        "not supported": "the marker spreads widely beyond its source",
        "undecided": "how far the marker spreads beyond its source is open",
    }
    return summary_claims(
        cite,
        motivation="If the geometry of a base model tells where a trained behaviour will leak, leakage can be forecast "
        "before anything is trained.",
        experiment=f"One LoRA adapter per source persona is taught to end its answers with `{cite.study.marker}`. Each "
        f"adapter then answers {facts('panel', 'questions')} questions under each of "
        f"{facts('panel', 'prompts')} personas ({facts('coverage', 'completions', spec=',d')} completions in "
        "all). A bystander's marker rate is compared with the cosine between its centroid and the source's, "
        "both read off the base model.",
        takeaways=(("H1", geometry), ("H2", gate)),
        next_steps=_next_steps(cite),
    )


def _next_steps(cite: Citations) -> Iterator[str]:
    if "tuned" not in cite.tables:
        yield "Measure the tuned models' own geometry (`tuned_similarity`)."
    if "ood" not in cite.tables:
        yield "Ask the out-of-distribution questions (`ood_samples`, `ood_scores`)."
