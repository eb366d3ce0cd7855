"""Source rate as a study: its design, analysis and report under the names that the assets read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.shared_answers import negatives, pools, shared, training_rows
from leakage_assets.studies.source_rate.design import (
    NAME,
    NEW,
    SOURCES,
    Scale,
    SourceRatePlan,
    analysis_plan,
    planned_experiment,
)
from leakage_assets.studies.source_rate.prechecks import prechecks
from leakage_assets.studies.study import Condition, Study

if TYPE_CHECKING:
    import polars as pl

    from leakage_assets.studies.tables import StudyTables
    from leakage_assets.training.rows import Row


def source_rate(stimuli: Stimuli, scale: Scale) -> Study:
    """The study at a profile's scale. Raises ``StudyError`` where a question set is too small for it."""
    from leakage_assets.studies.source_rate import report

    experiment = planned_experiment(stimuli, scale)
    return Study(
        name=NAME,
        title="Source rate",
        question="Does a source's distance to the assistant in the base model predict how well it implants a marker?",
        sources=SOURCES,
        only=experiment.conditions,
        recipes=experiment.recipes,
        seeds=experiment.seeds,
        marker=experiment.marker,
        data=experiment.data,
        panels=experiment.panels,
        plan=analysis_plan(scale, experiment),
        donors=pools,
        trained_under=trained_under,
        prechecks=prechecks,
        silent_prompts=NEW,
        assemble=assemble,
        analyse=analyse,
        figures=report.figures,
        report=report.report,
        analysis_libraries=("numpy", "polars", "scipy", "statsmodels"),
        analysis_version=2,
        report_version=5,
    )


def trained_under(study: Study, condition: Condition) -> tuple[str, ...]:
    """The source, then its negatives."""
    return (condition.source, *negatives(shared(study), study.name, condition))


def assemble(
    study: Study, stimuli: Stimuli, condition: Condition, answers: Mapping[str, pl.DataFrame]
) -> Sequence[Row]:
    """See ``training_rows``; ``answers`` holds the samples of the one pool."""
    (written,) = answers.values()
    return training_rows(
        shared(study),
        stimuli,
        condition,
        study=study.name,
        recipe=study.recipe(condition.recipe),
        marker=study.marker,
        answers=written,
    )


def analyse(study: Study, tables: StudyTables) -> dict[str, pl.DataFrame]:
    """See ``analysis.analyse``."""
    from leakage_assets.studies.source_rate import analysis

    plan = study.plan_as(SourceRatePlan)
    return analysis.analyse(
        plan,
        analysis.SourceRateTables(
            counts=analysis.own_counts(tables.scores),
            cosines=analysis.cosine_table(tables.similarity),
            tokens={name: tables.prompt_tokens(name) for name in study.sources},
        ),
    )
