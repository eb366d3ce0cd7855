"""The write-up of marker leakage: the order of its sections, how sure it is, and what it does not show.

The sections are written in the modules beside this one that begin with its name. Every number is bound to a cell of
the analysis, of the frozen plan, of the facts of the run or of the published figures; `reporting.lint` refuses any
other digit.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from leakage_assets.reporting.report import (
    Block,
    Bullets,
    Caveat,
    Confidence,
    Level,
    Paragraph,
    Report,
    SampleBlock,
    Section,
)
from leakage_assets.studies.context import ReportContext
from leakage_assets.studies.marker_leakage.figures import Tables, drawn_and_left_out, figures
from leakage_assets.studies.marker_leakage.report_citations import Citations
from leakage_assets.studies.marker_leakage.report_design import design
from leakage_assets.studies.marker_leakage.report_exploratory import categories, out_of_distribution, predictors, shape
from leakage_assets.studies.marker_leakage.report_published import published_and_this_run
from leakage_assets.studies.marker_leakage.report_results import (
    by_layer,
    by_recipe,
    geometry,
    leakage,
    over_seeds,
    positions,
)
from leakage_assets.studies.marker_leakage.report_summary import summary, title, tldr
from leakage_assets.studies.marker_leakage.report_verdicts import plan_changed, plan_verdicts
from leakage_assets.studies.study import Study

__all__ = ["confidence_level", "figures", "report"]


def report(study: Study, tables: Tables, context: ReportContext) -> Report:
    """The report of the newest analysis.

    Raises ``ReportError`` where a table lacks a row that the text cites: text and analysis have drifted apart.
    """
    drawn, left_out = drawn_and_left_out(study, tables)
    cite = Citations(study, tables, context, drawn, left_out)
    level = confidence_level(
        tables["verdicts"],
        sources=cite.facts["recipes"][cite.recipe]["sources"],
        sources_planned=cite.facts["coverage"]["sources_planned"],
        seeds=cite.seeds,
    )
    # Placeholders are numbered as they are bound, so in this order.
    heading, short, claims = title(cite), tldr(cite), summary(cite)
    return Report(
        title=heading,
        question=study.question,
        confidence=Confidence(level, _confidence_reason(cite), cite.seeds),
        tldr=short,
        summary=claims,
        sections=tuple(_sections(cite)),
        caveats=tuple(_caveats(cite)),
        provenance=context.provenance,
        bindings=cite.bindings,
    )


def confidence_level(verdicts: pl.DataFrame, *, sources: int, sources_planned: int, seeds: int) -> Level:
    """How sure the title may be. HIGH needs every hypothesis decided, every planned source and several seeds.

    LOW: a planned source is missing, or the first hypothesis (the title's claim) is undecided. MODERATE: one seed,
    or another hypothesis is undecided.
    """
    decided = (verdicts["verdict"] != "undecided").to_list()
    if sources < sources_planned or not decided[0]:
        return "LOW"
    return "HIGH" if seeds > 1 and all(decided) else "MODERATE"


def _confidence_reason(cite: Citations) -> str:
    reasons = []
    recipe = cite.facts["recipes"][cite.recipe]
    if recipe["sources"] < cite.facts["coverage"]["sources_planned"]:
        finished, planned = cite.fact("recipes", cite.recipe, "sources"), cite.fact("coverage", "sources_planned")
        reasons.append(f"{finished} of {planned} planned sources are finished, which caps it at LOW")
    if cite.seeds == 1:
        reasons.append("one seed, which caps it at MODERATE")
    undecided = cite.tables["verdicts"].filter(verdict="undecided").height
    if undecided:
        names = ", ".join(
            cite.cell("verdicts", "hypothesis", "", hypothesis=name)
            for name in cite.tables["verdicts"].filter(verdict="undecided")["hypothesis"]
        )
        reasons.append(f"undecided: {names}")
    return "; ".join(reasons) or "every hypothesis is decided on all planned sources and several seeds"


def _sections(cite: Citations) -> Iterator[Section]:
    yield Section("Design", tuple(design(cite)))
    yield Section("Verdicts against the frozen plan", tuple(plan_verdicts(cite)))
    if cite.has_headline:
        yield Section("Geometry and leakage", tuple(geometry(cite)))
        yield Section("How much leaks, and to whom", tuple(leakage(cite)))
        yield Section("Layers", tuple(by_layer(cite)))
    yield Section("Seeds", tuple(over_seeds(cite)))
    yield Section("Recipes", tuple(by_recipe(cite)))
    yield Section("Where in the answer the marker stands", (positions(cite),))
    if cite.has_headline:
        yield Section("Published and this run", tuple(published_and_this_run(cite)))
        yield Section("What the correlation rests on", (shape(cite),), exploratory=True)
        yield Section("Categories and intended relations", (categories(cite),), exploratory=True)
        yield Section("Other predictors", tuple(predictors(cite)), exploratory=True)
    if cite.rows("ood").height:
        yield Section("Out-of-distribution questions", (out_of_distribution(cite),), exploratory=True)
    if cite.left_out:
        yield Section("Figures left out", (Bullets(tuple(_missing_figures(cite))),))
    yield Section("Completions", tuple(_completions(cite)))


def _missing_figures(cite: Citations) -> Iterator[str]:
    for name, needs in cite.left_out.items():
        yield f"`{name}` needs {needs}."


def _completions(cite: Citations) -> Iterator[Block]:
    yield Paragraph(
        "Drawn by a derived seed, not chosen: of the source and of bystanders, with the marker and without, as far "
        "as each kind occurs. Model text is shown as it was written."
    )
    yield SampleBlock("Completions with the marker highlighted.", cite.context.samples, (cite.study.marker,))


def _caveats(cite: Citations) -> Iterator[Caveat]:
    if cite.seeds == 1:
        yield Caveat("critical", "One seed: nothing here shows how much another training run would differ.")
    recipe, coverage = cite.facts["recipes"][cite.recipe], cite.facts["coverage"]
    if recipe["sources"] < coverage["sources_planned"]:
        finished, planned = cite.fact("recipes", cite.recipe, "sources"), cite.fact("coverage", "sources_planned")
        yield Caveat("critical", f"Only {finished} of {planned} planned sources are in the headline.")
    if not cite.facts["plan"]["came_first"]:
        yield Caveat(
            "critical", "The analysis plan was stored after the first scores: the verdicts are not pre-registered."
        )
    if cite.facts["plan"]["changes"]:
        yield Caveat("major" if cite.facts["plan"]["came_first"] else "critical", plan_changed(cite))
    if not cite.facts["recipes"][cite.plan.control_recipe]["cells"]:
        yield Caveat("major", "The control recipe was not run, so a base rate of the marker is not ruled out.")
    for position, text in enumerate(cite.plan.caveats):
        yield Caveat("major", cite.bind(cite.context.planned("caveats", position, value=text)))
