"""Two markers under the names that the assets read: which prompts, which rows, which scores, which tables.

The source of a condition is the name of a pair, and its recipe that of an arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.study import Condition, Study
from leakage_assets.studies.two_marker_chunk.arms import arm, pair_named, training_rows
from leakage_assets.studies.two_marker_chunk.design import TwoMarkerExperiment, TwoMarkerPlan
from leakage_assets.studies.two_marker_chunk.probe import ECHO, PROBE_SET

if TYPE_CHECKING:
    import polars as pl

    from leakage_assets.studies.tables import StudyTables
    from leakage_assets.training.rows import Row


def planned(study: Study) -> TwoMarkerExperiment:
    """What the study's plan is made for. Raises ``TypeError`` where it is another study's."""
    experiment = study.plan.experiment
    if not isinstance(experiment, TwoMarkerExperiment):
        raise TypeError(f"study {study.name}: its experiment is a {type(experiment).__name__}, not of two markers")
    return experiment


def trained_under(_: Study, condition: Condition) -> tuple[str, ...]:
    """Donor, recipient and the four negatives: their own answers are what they are trained on, so also the pools."""
    return pair_named(condition.source).trained


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


def score(study: Study, samples: pl.DataFrame) -> pl.DataFrame:
    """See ``measurement.marker_pairs.pair_score_frame``: both markers, and the probe's as ``echo``."""
    from leakage_assets.measurement.marker_pairs import pair_score_frame

    experiment = planned(study)
    return pair_score_frame(samples, *experiment.markers, {ECHO: experiment.probe.marker})


def analyse(study: Study, tables: StudyTables) -> dict[str, pl.DataFrame]:
    """See ``analysis.analyse``; ``tables.scores`` are those of ``score``."""
    from leakage_assets.studies.two_marker_chunk import analysis

    extra = tables.extra_scores
    probe = extra.filter(panel=PROBE_SET) if "panel" in extra.columns else None
    return analysis.analyse(study.plan_as(TwoMarkerPlan), tables.scores, probe)
