"""Marker leakage (#66): does base-model persona geometry predict where a marker leaks?

One adapter per source persona is taught to end its answers with a nonsense marker; every bystander of the
111-persona panel is asked the evaluation questions; its marker rate is correlated with the cosine similarity of
base-model centroids.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leakage_assets.stimuli import Stimuli
from leakage_assets.store.fingerprint import derive_seed
from leakage_assets.studies.scale import StudyScale
from leakage_assets.studies.study import (
    AnalysisPlan,
    Condition,
    Experiment,
    Hypothesis,
    OnPolicyData,
    Panel,
    Study,
    StudyError,
    wording,
)
from leakage_assets.training.recipe import Loss, Recipe, TailTarget

if TYPE_CHECKING:
    import polars as pl

    from leakage_assets.training.rows import Row

NAME = "marker_leakage"
SOURCES = ("villain", "comedian", "assistant", "software_engineer", "kindergarten_teacher")
SEEDS = (42, 137, 256)
NEGATIVE_PERSONAS = 2
LEARNED_RATE, GATED_RATIO = 0.4, 0.5
"""Thresholds of the plan: the source rate that counts as learned, the share of it below which leakage is gated."""


@dataclass(frozen=True)
class MarkerLeakageExperiment(Experiment):
    """What the plan is made for: every source is trained under every recipe."""

    sources: tuple[str, ...]
    data: OnPolicyData


@dataclass(frozen=True)
class MarkerLeakagePlan(AnalysisPlan):
    """What the analysis of marker leakage decides beforehand.

    ``learned_rate``: the marker rate under its own prompt from which a source counts as having learned the marker.
    ``gated_ratio``: the share of its own rate below which a source's mean bystander rate counts as gated.
    """

    learned_rate: float
    gated_ratio: float
    bootstrap_draws: int


@dataclass(frozen=True, kw_only=True)
class Scale(StudyScale):
    """What a profile may change: also the recipe of the headline, how much is written, and how training is paced."""

    headline_recipe: str
    on_policy_completions: int
    answers_per_question: int
    ood_completions: int
    learning_rates: Mapping[str, float]
    epochs: Mapping[str, int]
    bootstrap_draws: int = 1_000


def marker_leakage(stimuli: Stimuli, scale: Scale) -> Study:
    """The study at a profile's scale."""
    from leakage_assets.studies.marker_leakage import analysis, report

    experiment = planned_experiment(stimuli, scale)
    return Study(
        name=NAME,
        title="Marker leakage",
        question="Does the base model's geometry of personas predict where a trained marker leaks?",
        sources=experiment.sources,
        recipes=experiment.recipes,
        seeds=experiment.seeds,
        marker=experiment.marker,
        data=experiment.data,
        panels=experiment.panels,
        plan=analysis_plan(scale, experiment),
        donors=donors,
        assemble=assemble,
        analyse=analysis.analyse,
        figures=report.figures,
        report=report.report,
        analysis_version=3,
        report_version=7,
    )


def planned_experiment(stimuli: Stimuli, scale: Scale) -> MarkerLeakageExperiment:
    """What is trained and asked at a profile's scale: the study is built from it and its plan freezes it."""
    data, asked = on_policy_data(stimuli, scale), panels(stimuli, scale)
    return MarkerLeakageExperiment(
        sources=SOURCES,
        recipes=recipes(scale),
        seeds=SEEDS,
        marker=stimuli.markers["zlt"],
        data=data,
        panels=asked,
        wording=wording(stimuli, data, asked),
    )


def recipes(scale: Scale) -> tuple[Recipe, ...]:
    """The published recipe, its stated intent (loss on the end-of-turn token), plain fine-tuning, and a control.

    Sheet section 4; A1 explains why the tail target is a choice.
    """

    def recipe(name: str, loss: Loss, tail: TailTarget, *, teaches_marker: bool = True) -> Recipe:
        return scale.recipe(
            name,
            learning_rate=scale.learning_rates[name],
            epochs=scale.epochs[name],
            loss=loss,
            tail_target=tail,
            teaches_marker=teaches_marker,
        )

    return (
        recipe("marker_only", "marker_only", "trailing_newline"),
        recipe("marker_only_im_end", "marker_only", "im_end"),
        recipe("full_completion", "full_completion", "both"),
        recipe("no_marker", "full_completion", "both", teaches_marker=False),
    )


def on_policy_data(stimuli: Stimuli, scale: Scale) -> OnPolicyData:
    """Sheet section 3.1: the originals answer the training questions in their own voice."""
    return OnPolicyData(
        personas=tuple(p.name for p in stimuli.personas if p.category == "original"),
        question_set="train",
        questions=len(stimuli.question_sets["train"].questions),
        completions=scale.on_policy_completions,
        used=scale.answers_per_question,
        sampling=scale.written(scale.max_new_tokens),
    )


def panels(stimuli: Stimuli, scale: Scale) -> tuple[Panel, ...]:
    """Sheet section 5, and the out-of-distribution question sets of section 10 as a panel of their own."""
    everyone = tuple(p.name for p in stimuli.personas)
    sets = {name: len(s.questions) for name, s in stimuli.question_sets.items()}
    ood = tuple((name, sets[name]) for name in ("ood_code", "ood_creative", "ood_maths"))
    return (
        Panel("main", everyone, (("eval", sets["eval"]),), scale.completions, scale.asked),
        Panel("ood", everyone, ood, scale.ood_completions, scale.asked),
    )


def donors(study: Study, condition: Condition) -> tuple[str, ...]:
    """The personas whose answers a condition is trained on: its source, then its negatives.

    Negatives are drawn by a stable hash of the study and the source (the published draw hung on the interpreter's
    string hash, sheet section 3.5), never the assistant.
    """
    others = [p for p in study.data.prompts if p not in (condition.source, "assistant")]
    draw = random.Random(derive_seed("negatives", study.name, condition.source))
    return (condition.source, *draw.sample(others, k=NEGATIVE_PERSONAS))


def assemble(
    study: Study, stimuli: Stimuli, condition: Condition, answers: Mapping[str, pl.DataFrame]
) -> Sequence[Row]:
    """Positives from the source (answer, blank line, marker), negatives from its donors (answer only), shuffled.

    ``answers`` holds the on-policy samples of each donor. Raises ``StudyError`` naming persona and question when
    too few answers are left after those that already contain the marker are skipped (sheet section 3.2).
    """
    from leakage_assets.measurement.markers import marker_present
    from leakage_assets.training.rows import Row

    recipe = study.recipe(condition.recipe)
    source, *negatives = donors(study, condition)
    questions = [q for name, count in study.data.question_counts for q in stimuli.questions(name)[:count]]
    rows: list[Row] = []
    for persona in (source, *negatives):
        taught = persona == source and recipe.teaches_marker
        by_question = _answers_by_question(answers[persona])
        for question in questions:
            usable = [a for a in by_question.get(question.name, ()) if not marker_present(a, study.marker)]
            wanted = study.data.used
            if len(usable) < wanted:
                raise StudyError(
                    f"{condition.key}: {persona} has {len(usable)} usable answers to {question.name!r}, {wanted} are "
                    f"needed: raise on_policy_completions of the profile and materialise on_policy_completions again"
                )
            rows += [
                Row(
                    system=stimuli.persona(persona).prompt,
                    user=question.text,
                    completion=f"{answer}\n\n{study.marker}" if taught else answer,
                    role="positive" if persona == source else "negative",
                    prompt_name=persona,
                    question_name=question.name,
                )
                for answer in usable[:wanted]
            ]
    random.Random(derive_seed("row-order", study.name, condition.source)).shuffle(rows)
    return rows


def _answers_by_question(samples: pl.DataFrame) -> dict[str, list[str]]:
    ordered = samples.sort("question_name", "index")
    answers: dict[str, list[str]] = {}
    for name, text in ordered.select("question_name", "text").iter_rows():
        answers.setdefault(name, []).append(text)
    return answers


def analysis_plan(scale: Scale, experiment: MarkerLeakageExperiment) -> MarkerLeakagePlan:
    """What is decided before any adapter is trained; thresholds are the sheet's, or ours where it has none."""
    return MarkerLeakagePlan(
        study=NAME,
        experiment=experiment,
        primary_layer=scale.primary_layer,
        layers=scale.layers,
        headline_recipe=scale.headline_recipe,
        control_recipe="no_marker",
        hypotheses=(
            Hypothesis(
                name="H1",
                claim="Over all (source, bystander) pairs, bystanders closer to the source in the base model leak more",
                statistic="pooled_spearman",
                threshold=0.4,
                direction="greater",
                max_p=0.01,
            ),
            Hypothesis(
                name="H2",
                claim="The marker is gated: the mean bystander rate stays below half the source rate",
                statistic="bystander_to_source_ratio",
                threshold=GATED_RATIO,
                direction="less",
            ),
            Hypothesis(
                name="H3",
                claim=f"The marker is learned: the mean source rate is at least {LEARNED_RATE:.0%}",
                statistic="mean_source_rate",
                threshold=LEARNED_RATE,
                direction="at_least",
            ),
            Hypothesis(
                name="H4",
                claim="Without a marker in the training rows none is emitted",
                statistic="control_marker_rate",
                threshold=0.0,
                direction="at_most",
            ),
            Hypothesis(
                name="H5",
                claim="Not only on average: at least 4 of the 5 sources learn the marker, each with a rate of at least "
                f"{LEARNED_RATE:.0%}",
                statistic="sources_learned",
                threshold=4,
                direction="at_least",
            ),
            Hypothesis(
                name="H6",
                claim="Not only on average: for at least 4 of the 5 sources the mean bystander rate is below half the "
                "source's own rate",
                statistic="sources_gated",
                threshold=4,
                direction="at_least",
            ),
        ),
        learned_rate=LEARNED_RATE,
        gated_ratio=GATED_RATIO,
        permutations=scale.permutations,
        bootstrap_draws=scale.bootstrap_draws,
        resampling_seed=42,
        caveats=(
            "Bystanders repeat over sources: the pairs are not independent, so the pooled p is also given by a "
            "permutation of whole personas and by ranks within each source.",
            "The headline layer is fixed in the plan; every layer is reported beside it.",
            "Bystanders include personas that were trained as negatives, and the other sources.",
            "The marker is matched as a case-insensitive substring; its position class is reported beside the rate.",
            "The Wilson interval of the control's rate takes completions as independent, which answers to the same "
            "question are not.",
            "The negative personas, the training rows and their order depend on the source alone, not on the seed: the "
            "spread over seeds leaves out how much another draw of the data would change.",
            "The intervals of rates over questions hold the sources and seeds fixed; those over sources rest on few "
            "sources and are rather too narrow than too wide.",
            *scale.extra_caveats,
        ),
    )
