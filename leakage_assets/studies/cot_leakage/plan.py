"""What a profile decides of the study, what its plan is made for, and the frozen plan itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from leakage_assets.stimuli import Stimuli
from leakage_assets.store.fingerprint import fingerprint
from leakage_assets.studies.cot_leakage.arms import (
    ARMS,
    ASSISTANT_ONLY,
    FULL_SEQUENCE,
    GARBAGE,
    GENERIC_CORRECT,
    PERSONA,
    LossMask,
    arm_of_recipe,
    recipe_name,
)
from leakage_assets.studies.cot_leakage.budget import BudgetLimits
from leakage_assets.studies.cot_leakage.design import (
    CORRECT_SOURCE,
    EXTENSION_SOURCES,
    NAME,
    PERSONAS,
    SEEDS,
    SOURCES,
    WRONG_LETTER_SEED,
    Decisions,
    hypotheses,
    recipes,
)
from leakage_assets.studies.cot_leakage.evaluation import SCAFFOLDS, SmokeGate
from leakage_assets.studies.cot_leakage.panels import AnswerPanel, Grid, RationalePanel, panels
from leakage_assets.studies.cot_leakage.questions import ARC_CHALLENGE, EVALUATION, TRAIN, QuestionSource, own_folder
from leakage_assets.studies.cot_leakage.rationales import Rationales, Writer
from leakage_assets.studies.cot_leakage.writing import FILLERS, IN_CHARACTER, NEUTRAL, SYSTEM, Limits
from leakage_assets.studies.cot_leakage.writing import GARBAGE as GARBAGE_PROMPT
from leakage_assets.studies.study import AnalysisPlan, Condition, Experiment, Panel, wording
from leakage_assets.training.recipe import Precision, Recipe

HEADLINE = recipe_name(PERSONA, ASSISTANT_ONLY)
CONTROL = recipe_name(GENERIC_CORRECT, ASSISTANT_ONLY)
"""Trained to answer rightly in the same format: what training by itself costs."""

COMPARED_QUESTIONS = 20
"""Open questions with which the personas are compared in the base model."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What a profile may change. ``everywhere``: arms trained under every source of the published study; the others are
    trained under one (``CORRECT_SOURCE``) alone. ``extension``: arms trained under the three further sources.
    """

    source: QuestionSource
    trained: int
    asked: int
    repeated: int
    personas: tuple[str, ...] = PERSONAS
    everywhere: tuple[str, ...]
    alone: tuple[str, ...] = ()
    extension: tuple[str, ...] = ()
    full_sequence_everywhere: tuple[str, ...] = ()
    full_sequence_alone: tuple[str, ...] = ()
    writer: Writer
    budget: BudgetLimits
    smoke: SmokeGate = field(default_factory=SmokeGate)
    layers: tuple[int, ...]
    primary_layer: int
    max_new_tokens: int = 768
    learning_rate: float = 5e-6
    epochs: int = 1
    batch_size: int = 4
    grad_accum: int = 4
    max_length: int = 2048
    precision: Precision = "bfloat16"
    extra_caveats: tuple[str, ...] = ()

    def conditions(self) -> tuple[Condition, ...]:
        """What is trained, in the order of the recipes."""
        wanted = {
            (name, mask, source)
            for names, mask, sources in (
                (self.everywhere, ASSISTANT_ONLY, SOURCES),
                (self.alone, ASSISTANT_ONLY, (CORRECT_SOURCE,)),
                (self.extension, ASSISTANT_ONLY, EXTENSION_SOURCES),
                (self.full_sequence_everywhere, FULL_SEQUENCE, SOURCES),
                (self.full_sequence_alone, FULL_SEQUENCE, (CORRECT_SOURCE,)),
            )
            for name in names
            for source in sources
        }
        masks: tuple[LossMask, ...] = (ASSISTANT_ONLY, FULL_SEQUENCE)
        return tuple(
            Condition(source, recipe_name(one.name, mask))
            for mask in masks
            for one in ARMS
            for source in (*SOURCES, *EXTENSION_SOURCES)
            if (one.name, mask, source) in wanted
        )


PUBLISHED = Scale(
    # Before questions without exactly four options are left out.
    source=QuestionSource(ARC_CHALLENGE, 1_119, 1_172),
    trained=1_119,
    asked=1_172,
    repeated=200,
    everywhere=tuple(one.name for one in ARMS if one.published_sources > 1),
    alone=tuple(one.name for one in ARMS if one.published_sources == 1),
    extension=(PERSONA, GARBAGE),
    full_sequence_everywhere=tuple(
        one.name for one in ARMS if one.origin.startswith("#") and one.published_sources > 1
    ),
    full_sequence_alone=tuple(one.name for one in ARMS if one.published_sources == 1),
    writer=Writer("base"),
    budget=BudgetLimits(),
    layers=(10, 15, 20, 25),
    primary_layer=20,
)


def with_own_questions(scale: Scale) -> Scale:
    """The scale with the questions of the folder that the environment names, all of them; else as it is.

    Raises ``QuestionsUnavailable``.
    """
    if (folder := own_folder()) is None:
        return scale
    trained, asked = len(folder.rows(TRAIN)), len(folder.rows(EVALUATION))
    return replace(
        scale,
        source=replace(scale.source, data_set=folder, train=trained, evaluation=asked),
        trained=trained,
        asked=asked,
        repeated=min(scale.repeated, asked),
        smoke=replace(scale.smoke, questions=min(scale.smoke.questions, asked)),
        extra_caveats=(
            *scale.extra_caveats,
            "The questions are those of a folder, not the published ones.",
        ),
    )


@dataclass(frozen=True)
class CotExperiment(Experiment):
    """What the plan is made for, with what only this study has. ``texts``: digest of everything that is said."""

    sources: tuple[str, ...]
    conditions: tuple[Condition, ...]
    continued: tuple[AnswerPanel | RationalePanel, ...]
    compared: Panel
    texts: str
    baseline: bool
    audits_answers: bool


@dataclass(frozen=True)
class CotPlan(AnalysisPlan):
    """``decisions``: thresholds, draws and the order of sources. ``least_accuracy``: of the base; below it
    nothing could be lost, and nothing is trained. ``published_mask`` is compared with that of the decisions (E4).
    """

    decisions: Decisions
    smoke: SmokeGate
    least_accuracy: float
    published_mask: LossMask


def planned_experiment(stimuli: Stimuli, scale: Scale) -> CotExperiment:
    """Everything that is trained and asked at this scale."""
    conditions = scale.conditions()
    trained = {condition.recipe for condition in conditions}
    grid = Grid(scale.personas, tuple(s.name for s in SCAFFOLDS), scale.source, scale.asked, scale.max_new_tokens)
    data = Rationales(
        source=scale.source,
        asked=scale.trained,
        writer=scale.writer,
        needed=tuple(dict.fromkeys((arm_of_recipe(c.recipe)[0].name, c.source) for c in conditions)),
        drawn_with=WRONG_LETTER_SEED,
        limits=Limits(),
        budget=scale.budget,
    )
    steps = panels(grid, scale.repeated)
    # No adapter is asked these: they are where the personas are compared.
    compared = Panel("compared", scale.personas, (("eval", COMPARED_QUESTIONS),), 0, steps[0].sampling)
    return CotExperiment(
        recipes=tuple(recipe for recipe in _recipes(scale) if recipe.name in trained),
        seeds=SEEDS,
        marker="",
        data=data,
        panels=(),
        wording=wording(stimuli, data, ()),
        texts=texts(stimuli, scale, data),
        sources=tuple(s for s in (*SOURCES, *EXTENSION_SOURCES) if s in {c.source for c in conditions}),
        conditions=conditions,
        continued=steps,
        compared=compared,
        baseline=True,
        audits_answers=True,
    )


def _recipes(scale: Scale) -> Sequence[Recipe]:
    return recipes(
        (ASSISTANT_ONLY, FULL_SEQUENCE),
        learning_rate=scale.learning_rate,
        epochs=scale.epochs,
        batch_size=scale.batch_size,
        grad_accum=scale.grad_accum,
        max_length=scale.max_length,
        precision=scale.precision,
    )


def texts(stimuli: Stimuli, scale: Scale, data: Rationales) -> str:
    """sha256 of what is said: personas, formats, questions (or their pinned source), prompts of the writer."""
    return fingerprint(
        {
            "prompts": {name: stimuli.prompt(name) for name in {*scale.personas, *data.prompts}},
            "format": stimuli.world.choice_format.model_dump(mode="json"),
            "questions": scale.source.texts(stimuli),
            "compared": [q.text for q in stimuli.questions("eval")[:COMPARED_QUESTIONS]],
            "writer": [SYSTEM, NEUTRAL, IN_CHARACTER, GARBAGE_PROMPT, *FILLERS],
        },
        name="wording",
    )


def analysis_plan(scale: Scale, experiment: CotExperiment) -> CotPlan:
    """What is decided before any adapter is trained."""
    decisions = Decisions()
    return CotPlan(
        study=NAME,
        experiment=experiment,
        primary_layer=scale.primary_layer,
        layers=scale.layers,
        headline_recipe=HEADLINE,
        control_recipe=CONTROL,
        hypotheses=hypotheses(decisions),
        permutations=decisions.draws,
        resampling_seed=decisions.seed,
        caveats=(
            "A deviation: the verdicts use each arm's own format, as the protocol recommends (E1). The published ones "
            "use the persona's tag for every arm, with which one kind of arm alone was trained; the same contrasts so "
            "stand beside, with their own Holm, as exploratory.",
            "A deviation: a claim is decided by one test over questions and adapters, whose variance is that over "
            "questions plus that over pairs of adapters, each by Student's t on its own number, its p adjusted by "
            "Holm; equivalence needs its intervals within the margins. The noise of single answers is in both parts, "
            "so the test rather misses an effect than claims one. The published test resamples every question of every "
            "seed as independent and keeps the adapters; it is reported beside, and so are whole questions, and whole "
            "questions and seeds.",
            "The resampled intervals stand beside and decide nothing. Percentile intervals of a few dozen questions "
            "are too narrow, the more the smaller the level; the deciding test uses t instead.",
            "Simulated for Holm's first step, the deciding test rejects a true null at most one and a half times as "
            "often as planned with twelve pairs of adapters, and about twice as often with eight, in the worst ratio "
            "of the two variances; with fewer pairs it has the degrees of freedom of the adapters alone, which is no "
            "more often than planned. One seed so shows only what is very large.",
            "Pairs of adapters are taken as independent, also those of one source: other sources may differ by more.",
            "A p of zero means that no resample was as extreme under the published rule; under the others the smallest "
            "is one over the number of resamples and one.",
            "The arms differ in more than their rationale: letters, tags and openers are part of an arm, as published, "
            "and each cell has its own initialisation, dropout and order of rows, also within one source and seed.",
            "Rows are shuffled by the trainer for every cell anew; the published ones were shuffled once, with seed "
            "forty-two.",
            "A deviation: the letter is read from a greedily drawn token, and where that is no letter, from log-probs, "
            "if one of the four holds a twentieth of the probability. Below that the answer counts as wrong; the "
            "published rule reads the best letter among the twenty likeliest tokens at any probability. An arm whose "
            "next token drifts from letters loses accuracy by this rule; the contrasts with the best of the four "
            "letters stand beside.",
            "An adapter that answers with one letter, or whose rationales no longer end, loses accuracy without having "
            "learnt wrong answers. Collapsed adapters are named, cap the confidence, and are left out beside; where "
            "fewer than two pairs are left then, the title says that nothing can be compared.",
            "A deviation: questions with another number of options than four, or malformed, are left out and counted; "
            "the published evaluation kept them as never right.",
            "A deviation: every question asks for its own garbage, by an invented first word. Published were five "
            "prompts in turn, to which a greedy writer gives twenty texts. Share of different texts and diversity of a "
            "whole arm are further gates of the token budget.",
            "Wrong letters, texts and rows are the same for every seed: the spread over seeds leaves out how much "
            "another draw of the data would change.",
            *scale.extra_caveats,
        ),
        decisions=decisions,
        smoke=scale.smoke,
        least_accuracy=0.6,
        published_mask=FULL_SEQUENCE,
    )
