"""Two markers as a study: its design, analysis and report under the names that the assets read.

The source of a condition is the name of a pair, and its recipe that of an arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.study import Condition, Study
from leakage_assets.studies.two_marker_chunk.arms import arm, check_end_of_turn, pair_named, training_rows
from leakage_assets.studies.two_marker_chunk.design import (
    NAME,
    Scale,
    TwoMarkerPlan,
    analysis_plan,
    originals,
    planned,
    planned_experiment,
)
from leakage_assets.studies.two_marker_chunk.prechecks import marker_tokens, prechecks
from leakage_assets.studies.two_marker_chunk.probe import PROBE_SET
from leakage_assets.studies.two_marker_chunk.scoring import MARKER_PAIR
from leakage_assets.studies.two_marker_chunk.tokens import PINNED

if TYPE_CHECKING:
    import polars as pl

    from leakage_assets.studies.tables import StudyTables
    from leakage_assets.training.masks import MaskedRow
    from leakage_assets.training.rows import Row


def two_marker_chunk(stimuli: Stimuli, scale: Scale) -> Study:
    """The study at a profile's scale."""
    from leakage_assets.studies.two_marker_chunk import report

    experiment = planned_experiment(stimuli, scale)
    return Study(
        name=NAME,
        title="Two-marker chunk",
        question="A donor learns to say one marker before its answers and another after them, a recipient the first "
        "alone: does the second marker travel with the first?",
        sources=tuple(pair.name for pair in scale.pairs),
        anchors=tuple((pair.name, pair.donor) for pair in scale.pairs),
        only=experiment.conditions,
        recipes=experiment.recipes,
        seeds=experiment.seeds,
        marker=experiment.marker,
        data=experiment.data,
        panels=experiment.panels,
        continued=experiment.continued,
        plan=analysis_plan(scale, experiment),
        donors=trained_under,
        made_of=made_of,
        prechecks=prechecks,
        token_prechecks=marker_tokens,
        silent_prompts=originals(stimuli),
        scoring=MARKER_PAIR,
        gates="gates",
        assemble=assemble,
        check_rows=check_rows,
        analyse=analyse,
        figures=report.figures,
        report=report.report,
        analysis_version=5,
        report_version=8,
    )


def trained_under(_: Study, condition: Condition) -> tuple[str, ...]:
    """Donor, recipient and the four negatives: their own answers are what they are trained on, so also the pools."""
    return pair_named(condition.source).trained


def made_of(study: Study, condition: Condition) -> Mapping[str, Any]:
    """The arm, the pair and both markers."""
    experiment = planned(study)
    return {
        "arm": arm(condition.recipe, experiment.arms),
        "pair": pair_named(condition.source, experiment.pairs),
        "markers": experiment.markers,
    }


def assemble(
    study: Study, stimuli: Stimuli, condition: Condition, answers: Mapping[str, pl.DataFrame]
) -> Sequence[Row]:
    """See ``arms.training_rows``; ``answers`` holds the samples of each persona."""
    experiment = planned(study)
    return training_rows(
        arm(condition.recipe, experiment.arms),
        pair_named(condition.source, experiment.pairs),
        stimuli,
        study=study.name,
        questions=[q for name, count in study.data.question_counts for q in stimuli.questions(name)[:count]],
        used=study.data.used,
        markers=experiment.markers,
        answers=answers,
    )


def check_rows(study: Study, condition: Condition, rows: Sequence[MaskedRow]) -> None:
    """See ``arms.check_end_of_turn``; a tokenizer whose end of turn is not pinned passes no precheck either."""
    experiment = planned(study)
    which, pair = arm(condition.recipe, experiment.arms), pair_named(condition.source, experiment.pairs)
    check_end_of_turn(rows, which, pair, tuple(PINNED))


def analyse(study: Study, tables: StudyTables) -> dict[str, pl.DataFrame]:
    """See ``analysis.analyse``; ``tables.scores`` are those of ``scoring.score``."""
    from leakage_assets.studies.two_marker_chunk import analysis

    plan, probe = study.plan_as(TwoMarkerPlan), tables.of_panel(PROBE_SET)
    found = analysis.analyse(plan, tables.scores, probe if probe.height else None)
    return found | {"distances": analysis.distances(plan, tables.similarity)}
