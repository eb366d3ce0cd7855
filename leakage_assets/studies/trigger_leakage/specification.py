"""Trigger leakage as a study: its design, analysis and report under the names that the assets read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.shared_answers import pools, shared
from leakage_assets.studies.study import Condition, Study
from leakage_assets.studies.trigger_leakage.design import (
    COUNTED_TWICE,
    DECLARATIVE_PANEL,
    DISSOCIATION_PANEL,
    NAME,
    Scale,
    TriggerPlan,
    analysis_plan,
    planned_experiment,
    training_rows,
)
from leakage_assets.studies.trigger_leakage.panel import SOURCES
from leakage_assets.studies.trigger_leakage.prechecks import prechecks

if TYPE_CHECKING:
    import polars as pl

    from leakage_assets.studies.tables import StudyTables
    from leakage_assets.training.rows import Row


def trigger_leakage(stimuli: Stimuli, scale: Scale) -> Study:
    """The study at a profile's scale. Raises ``StudyError`` where a question set is too small for it."""
    from leakage_assets.studies.trigger_leakage import report

    experiment = planned_experiment(stimuli, scale)
    return Study(
        name=NAME,
        title="Trigger leakage",
        question="Do prompts without a persona keep a marker to themselves, and which similarity between prompts "
        "predicts where else it is said?",
        sources=SOURCES,
        only=experiment.conditions,
        recipes=experiment.recipes,
        seeds=experiment.seeds,
        marker=experiment.marker,
        data=experiment.data,
        panels=experiment.panels,
        continued=experiment.continued,
        plan=analysis_plan(stimuli, scale, experiment),
        donors=pools,
        trained_under=trained_under,
        prechecks=prechecks,
        compares_system_turns=True,
        counted_twice=COUNTED_TWICE,
        assemble=assemble,
        analyse=analyse,
        figures=report.figures,
        report=report.report,
        analysis_libraries=("numpy", "polars", "scipy", "statsmodels"),
        analysis_version=3,
        report_version=4,
    )


def trained_under(_: Study, condition: Condition) -> tuple[str, ...]:
    """The source alone: there are no negatives."""
    return (condition.source,)


def assemble(
    study: Study, stimuli: Stimuli, condition: Condition, answers: Mapping[str, pl.DataFrame]
) -> Sequence[Row]:
    """See ``training_rows``; ``answers`` holds the samples of the one pool."""
    (written,) = answers.values()
    return training_rows(
        shared(study),
        stimuli,
        condition,
        recipe=study.recipe(condition.recipe),
        marker=study.marker,
        answers=written,
    )


def analyse(study: Study, tables: StudyTables) -> dict[str, pl.DataFrame]:
    """See ``analysis.analyse``."""
    from leakage_assets.studies.trigger_leakage import analysis
    from leakage_assets.studies.trigger_leakage.cells import TriggerTables

    return analysis.analyse(
        study.plan_as(TriggerPlan),
        TriggerTables(
            scores=tables.scores,
            declarative=tables.of_panel(DECLARATIVE_PANEL),
            dissociation=tables.of_panel(DISSOCIATION_PANEL),
            similarity=tables.similarity,
        ),
    )
