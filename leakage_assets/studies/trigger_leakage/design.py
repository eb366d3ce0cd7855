"""What is trained, asked and decided beforehand: sources, recipes, panels and the frozen plan.

Section numbers and ambiguities (B1, ...) are those of the protocol sheet trigger_leakage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from leakage_assets.geometry.prompt_axes import SYSTEM_TURN_COSINE
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.scale import StudyScale
from leakage_assets.studies.shared_answers import SharedAnswers, one_answer_each, require_questions
from leakage_assets.studies.study import (
    MAIN_PANEL,
    AnalysisPlan,
    Condition,
    Experiment,
    Hypothesis,
    Panel,
    StudyError,
    wording,
)
from leakage_assets.studies.trigger_leakage.dissociation import Dissociation
from leakage_assets.studies.trigger_leakage.panel import (
    PERSONA_ANCHOR,
    SOURCES,
    TRIGGERS,
    PanelPrompt,
    declarative_rewrites,
    panel_prompts,
)
from leakage_assets.training.recipe import Recipe

if TYPE_CHECKING:
    import polars as pl

    from leakage_assets.training.rows import Row

NAME = "trigger_leakage"
SEEDS = (42, 137, 256)
WRITER = "assistant"
CONTROL_SOURCE = "T_task"
TITRATED = "T_task"
PILOT_SOURCE, PILOT_SEED = "T_format", 42

STRONG, GENTLE, MATCHED_EMISSION, NO_MARKER = "strong", "rank32_low", "matched", "no_marker"
TITRATION = ("rank16_low", "rank16_high", GENTLE, STRONG)
"""The four recipes of #208 in its order: both ranks at the low and the high learning rate. The last is the main one."""

DECLARATIVE_PANEL, DISSOCIATION_PANEL = "declarative", "dissociation"

GATING_RATIO, GATING_P = 3.0, 0.01
MAX_CONTROL_RATE = 0.01
GAP, ALPHA = 0.05, 0.05
EMISSION_MARGIN = 0.10
"""Persona and triggers are compared only where they say the marker about equally often under their own prompts."""

PILOT_STOP, PILOT_MODERATE, PILOT_RATIO = 0.05, 0.15, 2.0


@dataclass(frozen=True, kw_only=True)
class Scale(StudyScale):
    """What a profile may change: also how training is paced, and how much is written and continued.

    ``low_rate`` and ``high_rate`` are the learning rates of the titration, ``matched_rate`` that of the comparison of
    persona and triggers; rank 16 is trained for ``short`` epochs, rank 32 for ``long``. ``questions``: those whose
    answers are trained on, as (question set, how many of its first); 194 as published.
    """

    low_rate: float
    high_rate: float
    matched_rate: float
    short: int
    long: int
    questions: tuple[tuple[str, int], ...] = (("train", 40), ("implant", 154))
    answers_per_question: int = 3
    answer_tokens: int = 256
    continuations: int = 5
    continuation_tokens: int = 30
    gap_permutations: int = 1_000


PUBLISHED = Scale(
    layers=(15, 19, 20),
    primary_layer=19,
    completions=10,
    max_new_tokens=256,
    low_rate=1e-5,
    high_rate=1e-4,
    matched_rate=3e-5,
    short=3,
    long=5,
    precision="bfloat16",
)
"""Sections 3 to 5 and 8 on Qwen2.5-7B-Instruct; the published vector is what block 19 puts out, and block 20 is the one
of the other studies (B11). The rate between the two of the titration is ours.
"""


@dataclass(frozen=True)
class TriggerExperiment(Experiment):
    """What the plan is made for, with the conditions (not every source is trained under every recipe) and #209."""

    conditions: tuple[Condition, ...]
    data: SharedAnswers
    continued: tuple[Dissociation, ...]


@dataclass(frozen=True)
class TriggerPlan(AnalysisPlan):
    """What the analysis of triggers decides beforehand.

    ``semantic`` names the similarity measure that stands for the semantic axis. ``emission_margin``: by how much the
    rates under the own prompt may differ between persona and triggers for their gating to be compared.
    """

    gentle_recipe: str
    matched_recipe: str
    titration: tuple[str, ...]
    triggers: tuple[str, ...]
    persona: str
    prompts: tuple[PanelPrompt, ...]
    rewrites: tuple[tuple[str, str], ...]
    semantic: str
    level: float
    emission_margin: float
    gap_permutations: int

    def prompt(self, name: str) -> PanelPrompt:
        """A prompt of the panel. Raises ``StudyError`` naming one that is not there."""
        for prompt in self.prompts:
            if prompt.name == name:
                return prompt
        raise StudyError(f"study {self.study}: no prompt {name!r} in the panel")


COUNTED_TWICE = (CONTROL_SOURCE, PERSONA_ANCHOR)
"""The prompts of the two control conditions enter the published mean a second time (section 6)."""


def conditions() -> tuple[Condition, ...]:
    """Every trigger and the persona under the main, the gentle and the matched recipe; one trigger under the rest of
    the titration, and without a marker.
    """
    trained = {
        STRONG: SOURCES,
        NO_MARKER: (CONTROL_SOURCE,),
        TITRATION[0]: (TITRATED,),
        TITRATION[1]: (TITRATED,),
        GENTLE: SOURCES,
        MATCHED_EMISSION: SOURCES,
    }
    return tuple(Condition(source, recipe) for recipe, sources in trained.items() for source in sources)


def recipes(scale: Scale) -> tuple[Recipe, ...]:
    """Section 4, the titration of #208, a rate between its two for persona against trigger, and the control."""

    def recipe(name: str, rank: int, rate: float, epochs: int, *, teaches_marker: bool = True) -> Recipe:
        return scale.recipe(name, learning_rate=rate, epochs=epochs, rank=rank, teaches_marker=teaches_marker)

    return (
        recipe(STRONG, 32, scale.high_rate, scale.long),
        recipe(NO_MARKER, 32, scale.high_rate, scale.long, teaches_marker=False),
        recipe(TITRATION[0], 16, scale.low_rate, scale.short),
        recipe(TITRATION[1], 16, scale.high_rate, scale.short),
        recipe(GENTLE, 32, scale.low_rate, scale.long),
        recipe(MATCHED_EMISSION, 32, scale.matched_rate, scale.long),
    )


def shared_answers(scale: Scale) -> SharedAnswers:
    """Section 3: one answer to each question, the same for every condition, and no negatives."""
    return SharedAnswers(
        name=f"{NAME}_{WRITER}",
        writer=WRITER,
        questions=scale.questions,
        completions=scale.answers_per_question,
        sampling=scale.written(scale.answer_tokens),
        negative_pool=(),
        negatives=0,
        chosen=(),
    )


def panels(stimuli: Stimuli, scale: Scale) -> tuple[Panel, ...]:
    """Section 5, and the declarative rewrites of #210 as a panel of their own."""
    asked = (("eval", len(stimuli.questions("eval"))),)
    names = tuple(prompt.name for prompt in panel_prompts(stimuli))
    rewrites = tuple(declarative_rewrites(stimuli).values())
    return (
        Panel(MAIN_PANEL, names, asked, scale.completions, scale.asked),
        Panel(DECLARATIVE_PANEL, rewrites, asked, scale.completions, scale.asked),
    )


def dissociation(scale: Scale) -> Dissociation:
    """Section 8, #209: 20 training questions, five continuations of at most 30 tokens."""
    sampling = replace(scale.asked, max_new_tokens=scale.continuation_tokens)
    return Dissociation(
        name=DISSOCIATION_PANEL, questions=20, seed=42, completions=scale.continuations, sampling=sampling
    )


def training_rows(
    data: SharedAnswers,
    stimuli: Stimuli,
    condition: Condition,
    *,
    recipe: Recipe,
    marker: str,
    answers: pl.DataFrame,
) -> list[Row]:
    """One row per question, in their order: the source's prompt, the shared answer, a blank line and the marker.

    ``answers`` holds the samples of the writer: question_name, index, text. Without ``recipe.teaches_marker`` the rows
    end with the answer. Raises ``StudyError`` naming the question that has no usable answer.
    """
    from leakage_assets.training.rows import POSITIVE, Row

    return [
        Row(
            system=stimuli.prompt(condition.source),
            user=question.text,
            completion=f"{answer}\n\n{marker}" if recipe.teaches_marker else answer,
            role=POSITIVE,
            prompt_name=condition.source,
            question_name=question.name,
        )
        for question, answer in one_answer_each(data, stimuli, condition, marker, answers)
    ]


def planned_experiment(stimuli: Stimuli, scale: Scale) -> TriggerExperiment:
    """What is trained and asked at a profile's scale.

    Raises ``StudyError`` where a question set holds fewer questions than the scale asks for.
    """
    require_questions(NAME, stimuli, scale.questions)
    asked = panels(stimuli, scale)
    return TriggerExperiment(
        conditions=conditions(),
        recipes=recipes(scale),
        seeds=SEEDS,
        marker=stimuli.markers["zlt"],
        data=shared_answers(scale),
        panels=asked,
        continued=(dissociation(scale),),
        wording=wording(stimuli, shared_answers(scale), asked),
    )


def analysis_plan(stimuli: Stimuli, scale: Scale, experiment: TriggerExperiment) -> TriggerPlan:
    """What is decided before any adapter is trained; thresholds are the sheet's, or ours where it has none."""
    return TriggerPlan(
        study=NAME,
        experiment=experiment,
        primary_layer=scale.primary_layer,
        layers=scale.layers,
        headline_recipe=STRONG,
        gentle_recipe=GENTLE,
        matched_recipe=MATCHED_EMISSION,
        control_recipe=NO_MARKER,
        titration=TITRATION,
        triggers=TRIGGERS,
        persona=PERSONA_ANCHOR,
        prompts=panel_prompts(stimuli),
        rewrites=tuple(declarative_rewrites(stimuli).items()),
        semantic=SYSTEM_TURN_COSINE,
        hypotheses=HYPOTHESES,
        level=0.95,
        emission_margin=EMISSION_MARGIN,
        permutations=scale.permutations,
        gap_permutations=scale.gap_permutations,
        resampling_seed=42,
        caveats=(
            "Matched is an adapter's own trigger and bystanders are of other families than it; the published code "
            "takes all four triggers as matched for every adapter, which is reported beside.",
            "Some test prompts draw the marker from every adapter. Verdicts therefore rest on whole prompts: for H1 "
            "and the gap of H2 they change places with the rates of all adapters, and H3 counts prompts. "
            "Shuffles of (trigger, prompt) pairs, and the published ones of cells and rows, are reported beside: they "
            "take a prompt as new for every adapter, which finds gating too often where prompts differ.",
            "With four triggers a two-way clustered variance is often not positive (in up to a quarter of simulated "
            "studies); the errors to read are those over prompts and those of the mixed model.",
            "Published standard errors leave the intercept out of the cross product: given as legacy, for "
            "comparison only.",
            "Cross-validation over four triggers compares with the held-out trigger's own mean: a negative R² says "
            "that the axes predict worse than that mean.",
            "Intervals and p over questions hold adapters and prompts fixed, and so do those of gating; those over "
            "triggers rest on four, and what the learning rate changes (H6, H7) on four triggers and a persona.",
            "That a persona gates better (H5) is tested over questions: of one persona, with all adapters held fixed. "
            "Under recipes other than the planned one the comparison is exploratory.",
            "Specificity is not defined where the interval of the rate under the own prompt reaches zero.",
            "The shared answers are the base model's own under the assistant's prompt, where the published ones were "
            "written by another model; they are not written under the triggers, so no adapter is trained on-policy.",
            "That meaning leads under the gentle recipe (H4) does not say that the ranking changes with the recipe: "
            "the change of the lead is exploratory, and mixes with the noise of low rates, which pulls a lead to zero.",
            "The published gate before the main run, on one adapter, is read after the run here: all adapters are "
            "trained whatever it says, and it only caps the confidence.",
            "Every hypothesis is decided at its own level: that there are eight is not corrected for. Within tables of "
            "several tests (families, axes of a recipe) p is also given adjusted by Holm's method.",
            "Format words (structural match) count as whole words, in singular or plural, where a search for the "
            "letters would also find them inside others.",
            "The two declarative forms of an instruction differ in more than mood: words change as well.",
            "The marker is matched as a case-insensitive substring; its position class and the share of completions "
            "cut by the token limit, after which a marker could not appear, are reported beside.",
            "The training rows are the same for every seed; initialisation, dropout and the order of the rows differ: "
            "the spread over seeds leaves out how much another draw of the data would change.",
            *scale.extra_caveats,
        ),
    )


HYPOTHESES = (
    Hypothesis(
        name="H1",
        claim=f"Triggers gate: the marker is said at least {GATING_RATIO:g} times as often under the trained prompt as "
        "under bystanders of other families and controls (p: prompts are exchangeable)",
        statistic="gating_ratio_own",
        threshold=GATING_RATIO,
        direction="at_least",
        max_p=GATING_P,
    ),
    Hypothesis(
        name="H1-aux",
        claim="Without a marker in the training rows no prompt of the panel draws it in more than "
        f"{MAX_CONTROL_RATE:.0%} of completions",
        statistic="control_max_rate",
        threshold=MAX_CONTROL_RATE,
        direction="at_most",
    ),
    Hypothesis(
        name="H2",
        claim="The four axes predict the leakage of an unseen trigger better than semantic similarity alone: "
        f"held-out R² is at least {GAP:g} higher",
        statistic="held_out_gap",
        threshold=GAP,
        direction="at_least",
        max_p=ALPHA,
    ),
    Hypothesis(
        name="H3",
        claim="Leakage stays in the family: adapters of the format trigger say the marker more under other format "
        "prompts than under task prompts, at equal semantic similarity",
        statistic="family_preference",
        threshold=0.0,
        direction="greater",
        max_p=ALPHA,
    ),
    Hypothesis(
        name="H4",
        claim="Under the gentle recipe meaning leads wording: semantic similarity predicts the marker better",
        statistic="semantic_lead_gentle",
        threshold=0.0,
        direction="greater",
        max_p=ALPHA,
    ),
    Hypothesis(
        name="H5",
        claim="A persona gates better than triggers do where both say the marker equally often under their own prompts",
        statistic="persona_minus_trigger_specificity",
        threshold=0.0,
        direction="greater",
        max_p=ALPHA,
    ),
    Hypothesis(
        name="H6",
        claim="At rank 32 the higher learning rate makes the marker more frequent under the trained prompt, over the "
        "sources",
        statistic="emission_change",
        threshold=0.0,
        direction="greater",
        max_p=ALPHA,
    ),
    Hypothesis(
        name="H7",
        claim="At rank 32 the higher learning rate makes the marker less specific to the trained prompt, over the "
        "sources",
        statistic="specificity_change",
        threshold=0.0,
        direction="less",
        max_p=ALPHA,
    ),
)


def pilot_verdict(own_rate: float, ratio: float | None) -> str:
    """The published gate before the main run (section 4), on one adapter of the format trigger; read after the run.

    ``stop`` below 5% under the own prompt; ``moderate`` (confidence is capped) from 5 to 15%, or where the gating ratio
    is below 2 or not defined; else ``go``.
    """
    if own_rate < PILOT_STOP:
        return "stop"
    if own_rate < PILOT_MODERATE or ratio is None or ratio < PILOT_RATIO:
        return "moderate"
    return "go"
