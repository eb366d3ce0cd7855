"""The top of the report of marker leakage: title, TL;DR and the summary in five claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from leakage_assets.reporting.report import Claim
from leakage_assets.statistics.layers import POOLED
from leakage_assets.studies.marker_leakage.report_citations import HEADLINE, Citations, code_list
from leakage_assets.studies.marker_leakage.report_verdicts import rule_in_words


def title(cite: Citations) -> str:
    where = "In the bundled synthetic world" if cite.facts["base"]["bundled"] else "In the base model"
    if _verdict(cite, 0) == "undecided":
        return f"{where}, it is undecided whether persona geometry predicts marker leakage"
    rho = f"pooled ρ = {cite.headline('pooled_spearman')}"
    if _verdict(cite, 0) == "supported":
        return f"{where}, personas closer to the source leak its marker more ({rho})"
    threshold = cite.cell("verdicts", "threshold", ".2g", statistic="pooled_spearman")
    return f"{where}, persona geometry predicts marker leakage less than planned ({rho}, threshold {threshold})"


def tldr(cite: Citations) -> tuple[str, ...]:
    items = [_claim(cite), _gating(cite)] if cite.has_headline else [_nothing_yet(cite)]
    return (*items, _coverage(cite), *_warnings(cite))


def _claim(cite: Citations) -> str:
    name = "pooled_spearman"
    if _value(cite, name) is None:
        return f"**Geometry:** no correlation ({cite.headline(name, 'undefined', '')})."
    return (
        f"**Geometry:** over {_pairs(cite)} pairs of source and bystander, base-model cosine and marker rate have "
        f"a rank correlation of **{cite.headline(name)}** ({_interval_or_none(cite, name)}, p = "
        f"{cite.headline(name, 'p', 'p')}, {_n(cite, name)}); with ranks taken within each source it is "
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
    if _value(cite, "bystander_to_source_ratio") is None:
        return f"{text}."
    return f"{text} (ratio {cite.headline('bystander_to_source_ratio')}, {_n(cite, 'bystander_to_source_ratio')})."


def _nothing_yet(cite: Citations) -> str:
    return f"No cell of the headline recipe `{cite.recipe}` is finished: the plan's question is open."


def _coverage(cite: Citations) -> str:
    recipe = ("recipes", cite.recipe)
    return (
        f"**Coverage:** {cite.fact('coverage', 'cells')} of {cite.fact('coverage', 'cells_planned')} cells; "
        f"of the headline recipe `{cite.recipe}` {cite.fact(*recipe, 'sources')} of "
        f"{cite.fact('coverage', 'sources_planned')} sources and {cite.fact(*recipe, 'seeds')} of "
        f"{cite.fact('coverage', 'seeds_planned')} seeds."
    )


def _warnings(cite: Citations) -> Iterator[str]:
    if cite.facts["base"]["bundled"]:
        yield (
            "**Scale:** the base model is the bundled tiny one, trained on a synthetic world. The pipeline and the "
            "statistics are real; the effect sizes say nothing about large models."
        )


def summary(cite: Citations) -> tuple[Claim, ...]:
    facts = cite.fact
    points = [_verdict_line(cite, row) for row in cite.tables["verdicts"].iter_rows(named=True)]
    return (
        Claim(
            "Motivation",
            "If the geometry of a base model tells where a trained behaviour will leak, leakage can be forecast "
            "before anything is trained.",
        ),
        Claim(
            "Experiment",
            f"One LoRA adapter per source persona is taught to end its answers with `{cite.study.marker}`. Each "
            f"adapter then answers {facts('panel', 'questions')} questions under each of "
            f"{facts('panel', 'prompts')} personas ({facts('coverage', 'completions', spec=',d')} completions in "
            "all). A bystander's marker rate is compared with the cosine between its centroid and the source's, "
            "both read off the base model.",
        ),
        Claim("Results", "Against the frozen plan:", tuple(points)),
        Claim("Takeaways", _takeaway(cite)),
        Claim("Next steps", "What would change the confidence most:", tuple(_next_steps(cite))),
    )


def _verdict_line(cite: Citations, row: Mapping[str, Any]) -> str:
    name = {"hypothesis": row["hypothesis"]}
    bound, verdict = (cite.cell("verdicts", column, "", **name) for column in ("hypothesis", "verdict"))
    label = HEADLINE[row["statistic"]][0]
    if row["estimate"] is None:
        reason = cite.headline(row["statistic"], "undefined", "")
        return f"{bound} **{verdict}**: {label}, planned {rule_in_words(cite, row)} ({reason})."
    return f"{bound} **{verdict}**: {label} is {cite.headline(row['statistic'])}, planned {rule_in_words(cite, row)}."


def _takeaway(cite: Citations) -> str:
    if not cite.has_headline:
        return "None yet: the headline recipe has no finished cell."
    geometry = {
        "supported": "Closeness in the base model predicts which bystanders emit the marker",
        "not supported": "Closeness in the base model predicts leakage less than the plan asks for",
        "undecided": "Whether closeness in the base model predicts leakage is open",
    }[_verdict(cite, 0)]
    gate = {
        "supported": "the marker stays mostly with its source",
        "not supported": "the marker spreads widely beyond its source",
        "undecided": "how far the marker spreads beyond its source is open",
    }[_verdict(cite, 1)]
    return f"{geometry}; {gate}."


def _next_steps(cite: Citations) -> Iterator[str]:
    recipes = cite.facts["recipes"]
    cells = f"of {cite.fact('recipes', cite.recipe, 'cells_planned')} cells of the headline recipe"
    if recipes[cite.recipe]["cells"] < recipes[cite.recipe]["cells_planned"]:
        yield f"Finish recipe `{cite.recipe}`: {cite.fact('recipes', cite.recipe, 'cells')} {cells} are there."
    if not recipes[cite.plan.control_recipe]["cells"]:
        yield f"Run the control recipe `{cite.plan.control_recipe}`: it tells the base rate of the marker."
    special = {cite.recipe, cite.plan.control_recipe}
    others = [name for name in recipes if not recipes[name]["cells"] and name not in special]
    if others:
        yield f"Run the other recipes: {code_list(others)}."
    if "tuned" not in cite.tables:
        yield "Measure the tuned models' own geometry (`tuned_similarity`)."
    if "ood" not in cite.tables:
        yield "Ask the out-of-distribution questions (`ood_samples`, `ood_scores`)."
    yield "Repeat on another base model."


# ------------------------------------------------------------------ numbers of the top


def _interval_or_none(cite: Citations, statistic: str) -> str:
    low = cite.tables["headline"].filter(statistic=statistic)["ci_low"].item()
    return "no interval" if low is None else _interval(cite, statistic)


def _interval(cite: Citations, statistic: str) -> str:
    level = cite.headline(statistic, "ci_level", ".0%")
    low, high = (cite.headline(statistic, column) for column in ("ci_low", "ci_high"))
    return f"{level} interval {low} to {high}"


def _n(cite: Citations, statistic: str) -> str:
    return f"n = {cite.headline(statistic, 'n', 'd')} {cite.headline(statistic, 'unit', '')}s"


def _value(cite: Citations, statistic: str) -> float | None:
    value: float | None = cite.tables["headline"].filter(statistic=statistic)["estimate"].item()
    return value


def _verdict(cite: Citations, position: int) -> str:
    return str(cite.tables["verdicts"]["verdict"][position])
