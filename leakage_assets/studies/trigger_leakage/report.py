"""The write-up of trigger leakage: title, summary, and the order of its sections.

Every number is bound to a cell of the analysis, of the frozen plan, of the facts of the run or of the published
figures; `reporting.lint` refuses any other digit.
"""

from __future__ import annotations

from collections.abc import Iterator

from leakage_assets.reporting.report import Caveat, Claim, Section
from leakage_assets.studies.citations import Citations
from leakage_assets.studies.report_parts import (
    WriteUp,
    closing_sections,
    interval_or_none,
    over_seeds,
    sample_size,
    summary_claims,
    value,
    verdict,
)
from leakage_assets.studies.report_verdicts import plan_verdicts
from leakage_assets.studies.trigger_leakage.design import TriggerPlan
from leakage_assets.studies.trigger_leakage.figures import drawings
from leakage_assets.studies.trigger_leakage.labels import HEADLINE, source_name
from leakage_assets.studies.trigger_leakage.report_followups import (
    declarative,
    dissociation,
    positions,
    published_and_this_run,
    titration,
)
from leakage_assets.studies.trigger_leakage.report_sections import (
    columns,
    control,
    design,
    families,
    gates,
    held_out,
    layers,
    least_p,
    pilot_cap,
    predictors,
    recipes_and_predictors,
)

P_OF = (
    "of gating and of the gap by exchanging whole prompts, of all others as the method says; that of gating is against "
    "prompts being exchangeable, and the smallest that it can be is told with the gate"
)


# ------------------------------------------------------------------ the top


def _title(cite: Citations) -> str:
    if verdict(cite, "H1") == "undecided":
        return "it is undecided whether triggers without a persona keep a marker to themselves"
    planned = cite.cell("verdicts", "threshold", ".2g", hypothesis=cite.plan.hypotheses[0].name)
    found = (
        f"(own prompt over bystanders {cite.headline('gating_ratio_own')}, planned at least {planned}; p = "
        f"{_p(cite, 'gating_ratio_own')} against exchangeable prompts, smallest possible {least_p(cite)})"
    )
    if verdict(cite, "H1") == "supported":
        return f"triggers without a persona keep a marker to themselves {found}"
    return f"triggers without a persona are not shown to keep a marker to themselves {found}"


def _p(cite: Citations, statistic: str) -> str:
    return cite.headline(statistic, "p", "p")


def _tldr(cite: Citations) -> list[str]:
    return [_gating(cite), _prediction(cite), _strength(cite)]


def _gating(cite: Citations) -> str:
    if value(cite, "gating_ratio_own") is None:
        return f"**Gating:** no ratio ({cite.headline('gating_ratio_own', 'undefined', '')})."
    published = (
        f"counted as published, every trigger's prompt being matched for every adapter, it is "
        f"{cite.headline('gating_ratio_bucket')}"
        if value(cite, "gating_ratio_bucket") is not None
        else "counted as published it is not defined"
    )
    return (
        f"**Gating:** adapters say the marker in {cite.headline('matched_rate_own')} of completions under their own "
        f"trigger and in {cite.headline('bystander_rate_own')} under bystanders of other families and controls: a "
        f"ratio of **{cite.headline('gating_ratio_own')}** ({interval_or_none(cite, 'gating_ratio_own')}, p = "
        f"{_p(cite, 'gating_ratio_own')} where prompts are exchanged, which gives no less than {least_p(cite)}; "
        f"{sample_size(cite, 'gating_ratio_own')}, adapters and prompts held fixed); "
        f"{_over_triggers(cite)}; {published}."
    )


def _over_triggers(cite: Citations) -> str:
    """The ratio with triggers as the unit: what the interval over questions leaves out."""
    name = "gating_ratio_over_triggers"
    if value(cite, name) is None:
        return f"over triggers it is not defined ({cite.headline(name, 'undefined', '')})"
    return (
        f"over triggers the mean ratio is {cite.headline(name)} ({interval_or_none(cite, name)}, "
        f"{sample_size(cite, name)})"
    )


def _prediction(cite: Citations) -> str:
    gap = value(cite, "held_out_gap")
    if gap is None:
        return f"**Prediction:** not tested ({cite.headline('held_out_gap', 'undefined', '')})."
    text = (
        f"**Prediction:** for a trigger that was not fitted, four similarities between prompts reach an R² of "
        f"{cite.headline('held_out_r2')} and the semantic one alone {cite.headline('held_out_r2_reduced')}: a gap of "
        f"**{cite.headline('held_out_gap')}** (p = {_p(cite, 'held_out_gap')})."
    )
    if (value(cite, "held_out_r2") or 0.0) < 0:
        return f"{text} An R² below zero is worse than the held-out trigger's own mean."
    return text


def worse_than_the_mean(cite: Citations) -> bool:
    """Whether neither the axes together nor meaning alone predict an unseen trigger at all."""
    both = [value(cite, name) for name in ("held_out_r2", "held_out_r2_reduced")]
    return all(found is not None and found < 0 for found in both)


def _strength(cite: Citations) -> str:
    low, high = (f"`{name}`" for name in cite.study.plan_as(TriggerPlan).titration[2:])
    if value(cite, "emission_change") is None:
        return f"**Recipe:** {low} and {high} cannot be compared ({cite.headline('emission_change', 'undefined', '')})."
    specificity = (
        f"changes specificity by {cite.headline('specificity_change')} (p = {_p(cite, 'specificity_change')})"
        if value(cite, "specificity_change") is not None
        else "leaves specificity undefined"
    )
    return (
        f"**Recipe:** from {low} to {high} the higher learning rate changes the rate under the own prompt by "
        f"{cite.headline('emission_change')} (p = {_p(cite, 'emission_change')}, "
        f"{sample_size(cite, 'emission_change')}) and {specificity}; at a specificity of one no bystander says the "
        "marker."
    )


def _summary(cite: Citations) -> tuple[Claim, ...]:
    facts = cite.fact
    gating = {
        "supported": "Triggers without a persona gate a marker by the planned factor",
        "not supported": "That triggers without a persona gate a marker by the planned factor is not shown",
        "undecided": "Whether triggers without a persona gate a marker is open",
    }
    axes = {
        "supported": "wording, shape and family tell more about an unseen trigger than meaning alone",
        "not supported": "wording, shape and family are not shown to tell more about an unseen trigger than meaning "
        "alone",
        "undecided": "whether wording, shape and family add to meaning is open",
    }
    if worse_than_the_mean(cite):
        worse = " (both predict it worse than its own mean does)"
        axes = {said: f"{words}{worse}" for said, words in axes.items()}
    family = {
        "supported": "leakage prefers the own family",
        "not supported": "leakage is not shown to prefer the own family",
        "undecided": "whether leakage prefers the own family is open",
    }
    strength = {
        "supported": "at rank 32 a higher learning rate costs specificity",
        "not supported": "a higher learning rate is not shown to cost specificity",
        "undecided": "what a higher learning rate costs in specificity is open",
    }
    return summary_claims(
        cite,
        motivation="If a task, an instruction, a context or an output format could gate a behaviour as a persona does, "
        "a model could hide it behind any system prompt; what it leaks to tells where to look.",
        experiment=f"One LoRA adapter per trigger is taught to end its answers with `{cite.study.marker}`, all on the "
        "same answers and without negatives, so that they differ in the system prompt alone. Each is asked "
        f"{facts('panel', 'questions')} questions (completions of each: {facts('panel', 'completions')}) under "
        f"{facts('panel', 'prompts')} prompts: the triggers, paraphrases, mates of their families, bystanders, "
        "controls and personas.",
        takeaways=(("H1", gating), ("H2", axes), ("H3", family), ("H7", strength)),
        next_steps=(
            "Train more triggers of every family: whatever is said of an unseen one rests on the few that are trained.",
            "Write the answers under each trigger, so that adapters are trained on-policy.",
        ),
    )


# ------------------------------------------------------------------ sections


def _sections(cite: Citations) -> Iterator[Section]:
    yield Section("Design", tuple(design(cite)))
    yield Section("Verdicts against the frozen plan", tuple(plan_verdicts(cite, p=P_OF)))
    if cite.has_headline:
        yield Section("Does a trigger gate the marker?", tuple(gates(cite)))
    yield Section("Without a marker", tuple(control(cite)))
    if cite.has_headline:
        yield Section("Prompts that draw the marker", tuple(columns(cite)), exploratory=True)
        yield Section("Which similarity predicts leakage?", tuple(predictors(cite)))
        yield Section("Prediction of an unseen trigger", tuple(held_out(cite)))
        yield Section("Which layer?", tuple(layers(cite)), exploratory=True)
        yield Section("Does it stay in the family?", tuple(families(cite)))
        yield Section("Strength of the recipe and ranking of the axes", tuple(recipes_and_predictors(cite)))
    yield Section("Emission against specificity", tuple(titration(cite)))
    if cite.has_headline:
        yield Section("Prompt against content", tuple(dissociation(cite)), exploratory=True)
        yield Section("Instructions as statements", tuple(declarative(cite)), exploratory=True)
    yield Section("Where the marker stands", tuple(positions(cite)), exploratory=True)
    if cite.has_headline:
        yield Section("Seeds", tuple(over_seeds(cite, source_name)), exploratory=True)
        yield Section("Published and this run", tuple(published_and_this_run(cite)))
    yield from closing_sections(cite)


def _caveats(cite: Citations) -> Iterator[Caveat]:
    """The plan's caveats are worded for the whole design: what is to be read otherwise in a part of it."""
    plan = cite.study.plan_as(TriggerPlan)
    finished = set(cite.rows("gating")["sources"]) if cite.has_headline else set()
    if not finished.issuperset(plan.triggers):
        yield Caveat(
            "major",
            "The caveats of the plan, which follow, are worded for all planned triggers; fewer are finished, so where "
            "they say `four` it is these few that a statement rests on.",
        )


WRITE_UP = WriteUp(
    lambda study: study.plan_as(TriggerPlan),
    drawings,
    HEADLINE,
    _title,
    _tldr,
    _summary,
    _sections,
    pilot_cap,
    caveats=_caveats,
)
figures, report = WRITE_UP.figures, WRITE_UP.report
