"""The write-up of source rate: title, summary, and the order of its sections.

Every number is bound to a cell of the analysis, of the frozen plan, of the facts of the run or of the published
figures; `reporting.lint` refuses any other digit.
"""

from __future__ import annotations

from collections.abc import Iterator

from leakage_assets.reporting.report import Claim, Section
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
from leakage_assets.studies.source_rate.design import SourceRatePlan
from leakage_assets.studies.source_rate.figures import drawings
from leakage_assets.studies.source_rate.labels import HEADLINE, source_name
from leakage_assets.studies.source_rate.report_sections import (
    by_layer,
    design,
    lengths,
    one_by_one,
    other_references,
    other_rows,
    predictions,
    published_and_this_run,
    sources,
    within_categories,
)

P_OF = (
    "of the correlations of cosine and rate by permutation (every order where these are few, else at least one over "
    "the number of permutations and one), of all others as the method says"
)


# ------------------------------------------------------------------ the top


def _title(cite: Citations) -> str:
    if verdict(cite, "H1") == "undecided":
        return "it is undecided whether distance to the assistant predicts how well a marker implants"
    found = f"(ρ = {cite.headline('spearman')}, p = {cite.headline('spearman', 'p', 'p')})"
    if verdict(cite, "H1") == "supported":
        return f"sources further from the assistant implant a marker better {found}"
    return f"distance to the assistant is not shown to predict how well a marker implants {found}"


def _tldr(cite: Citations) -> list[str]:
    return [_relation(cite), _prediction(cite)]


def _relation(cite: Citations) -> str:
    if value(cite, "spearman") is None:
        return f"**Relation:** no correlation ({cite.headline('spearman', 'undefined', '')})."
    without = (
        f"{cite.headline('spearman_without_reference')} (p = {cite.headline('spearman_without_reference', 'p', 'p')})"
        if value(cite, "spearman_without_reference") is not None
        else "not defined"
    )
    return (
        "**Relation:** base-model cosine to the assistant and the rate at which a source says its marker have a rank "
        f"correlation of **{cite.headline('spearman')}** ({interval_or_none(cite, 'spearman')}, p = "
        f"{cite.headline('spearman', 'p', 'p')}, {sample_size(cite, 'spearman')}); without the reference itself, whose "
        f"cosine is one by construction, it is {without}."
    )


def _prediction(cite: Citations) -> str:
    if value(cite, "new_sources_inside") is None:
        return f"**Prediction:** not checked ({cite.headline('new_sources_inside', 'undefined', '')})."
    return (
        f"**Prediction:** of the new, assistant-like sources {cite.headline('new_sources_inside')} of "
        f"{cite.headline('new_sources_inside', 'n', 'd')} lie inside the prediction interval of the line through the "
        f"others, whose wider half is {cite.headline('widest_half_width')} of completions; "
        f"{cite.headline('new_sources_equivalent')} of them are shown to be near the line."
    )


def _summary(cite: Citations) -> tuple[Claim, ...]:
    facts = cite.fact
    relation = {
        "supported": "The nearer a source is to the assistant, the worse it takes up the marker",
        "not supported": "That nearness to the assistant hinders a marker is not shown",
        "undecided": "Whether nearness to the assistant hinders a marker is open",
    }
    interval = {
        "supported": "the prediction for new sources is narrow enough to mean something",
        "not supported": "the prediction for new sources is too wide to mean much",
        "undecided": "what it predicts for new sources is open",
    }
    return summary_claims(
        cite,
        motivation="If the base model's own geometry tells which prompts take up a new behaviour, one knows before "
        "training where an implant will hold.",
        experiment=f"One LoRA adapter per source is taught to end its answers with `{cite.study.marker}`. All sources "
        "are trained on the same answers, so that they differ in prompt and negatives alone. The rate at which an "
        f"adapter says the marker under its own prompt ({facts('panel', 'questions')} questions, "
        f"{facts('panel', 'completions')} completions each) is regressed on the cosine of the source's centroid to "
        "the assistant's in the base model.",
        takeaways=(("H1", relation), ("H3", interval)),
        next_steps=(
            "Train more sources of every category: the number of sources, not of completions, limits every interval "
            "here.",
        ),
    )


# ------------------------------------------------------------------ sections


def _sections(cite: Citations) -> Iterator[Section]:
    yield Section("Design", tuple(design(cite)))
    yield Section("Verdicts against the frozen plan", tuple(plan_verdicts(cite, p=P_OF)))
    if cite.has_headline:
        yield Section("Source rate and distance to the assistant", tuple(sources(cite)))
        yield Section("What the line predicts", tuple(predictions(cite)))
        yield Section("Layers", tuple(by_layer(cite)))
        yield Section("What the relation rests on", tuple(one_by_one(cite)))
        yield Section("Prompt length", tuple(lengths(cite)))
        yield Section("Seeds", tuple(over_seeds(cite, source_name)))
    yield Section("Other rows: published negatives and no marker", tuple(other_rows(cite)))
    if cite.has_headline:
        yield Section("Published and this run", tuple(published_and_this_run(cite)))
        yield Section("Within categories", tuple(within_categories(cite)), exploratory=True)
        yield Section("Other references", tuple(other_references(cite)), exploratory=True)
    yield from closing_sections(cite)


WRITE_UP = WriteUp(lambda study: study.plan_as(SourceRatePlan), drawings, HEADLINE, _title, _tldr, _summary, _sections)
figures, report = WRITE_UP.figures, WRITE_UP.report
