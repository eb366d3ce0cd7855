"""The write-up of marker leakage: the order of its sections.

The sections are written in the modules beside this one that begin with its name, and in ``studies.report_parts``. Every
number is bound to a cell of the analysis, of the frozen plan, of the facts of the run or of the published figures;
`reporting.lint` refuses any other digit.
"""

from __future__ import annotations

from collections.abc import Iterator

from leakage_assets.reporting.report import Section
from leakage_assets.studies.citations import Citations
from leakage_assets.studies.marker_leakage.figures import drawings
from leakage_assets.studies.marker_leakage.labels import HEADLINE, source_name
from leakage_assets.studies.marker_leakage.report_design import design
from leakage_assets.studies.marker_leakage.report_exploratory import categories, out_of_distribution, predictors, shape
from leakage_assets.studies.marker_leakage.report_published import published_and_this_run
from leakage_assets.studies.marker_leakage.report_results import (
    by_layer,
    by_recipe,
    geometry,
    leakage,
    positions,
)
from leakage_assets.studies.marker_leakage.report_summary import summary, title, tldr
from leakage_assets.studies.report_parts import WriteUp, closing_sections, over_seeds
from leakage_assets.studies.report_verdicts import plan_verdicts


def _sections(cite: Citations) -> Iterator[Section]:
    yield Section("Design", tuple(design(cite)))
    yield Section("Verdicts against the frozen plan", tuple(plan_verdicts(cite)))
    if cite.has_headline:
        yield Section("Geometry and leakage", tuple(geometry(cite)))
        yield Section("How much leaks, and to whom", tuple(leakage(cite)))
        yield Section("Layers", tuple(by_layer(cite)))
    yield Section("Seeds", tuple(over_seeds(cite, source_name)))
    yield Section("Recipes", tuple(by_recipe(cite)))
    yield Section("Where in the answer the marker stands", (positions(cite),))
    if cite.has_headline:
        yield Section("Published and this run", tuple(published_and_this_run(cite)))
        yield Section("What the correlation rests on", (shape(cite),), exploratory=True)
        yield Section("Categories and intended relations", (categories(cite),), exploratory=True)
        yield Section("Other predictors", tuple(predictors(cite)), exploratory=True)
    if cite.rows("ood").height:
        yield Section("Out-of-distribution questions", (out_of_distribution(cite),), exploratory=True)
    yield from closing_sections(cite)


WRITE_UP = WriteUp(lambda study: study, drawings, HEADLINE, title, tldr, summary, _sections)
figures, report = WRITE_UP.figures, WRITE_UP.report
