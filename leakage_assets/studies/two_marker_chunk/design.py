"""What is trained, asked and decided beforehand: pairs, arms, recipes, panel and the frozen plan.

Section numbers and ambiguities (C1, ...) are those of the protocol sheet two_marker_chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

from leakage_assets.measurement.marker_pairs import PUBLISHED as PUBLISHED_WIDTHS
from leakage_assets.measurement.marker_pairs import Signatures
from leakage_assets.stimuli import Stimuli
from leakage_assets.studies.scale import StudyScale
from leakage_assets.studies.study import (
    MAIN_PANEL,
    AnalysisPlan,
    Condition,
    Experiment,
    Hypothesis,
    OnPolicyData,
    Panel,
    Study,
    wording,
)
from leakage_assets.studies.two_marker_chunk.arms import (
    ARMS,
    B_ALONE,
    C_MASKED,
    CONTROLS,
    PAIRS,
    T_AFTER,
    T_MASKED,
    Arm,
    Pair,
    T,
    pair_named,
)
from leakage_assets.studies.two_marker_chunk.arms import arm as arm_named
from leakage_assets.studies.two_marker_chunk.gates import Floors, GateLimits
from leakage_assets.studies.two_marker_chunk.probe import Probe
from leakage_assets.training.recipe import Recipe

NAME = "two_marker_chunk"
SEEDS = (42, 1337, 2024)
"""Those of #369; #261 and #354 trained the first."""

IN_DISTRIBUTION, OUT_OF_DISTRIBUTION = "eval", "ood_society"

NEGLIGIBLE = 0.06
"""Falsification of chunk binding: R_B|A differs by at most this, and the interval contains 0 (section 7)."""

SPLIT = 0.15
"""R_B|A of questions in and out of distribution differs by as much: the claim is downgraded (section 6)."""

ENOUGH_PAIRS = 0.05
"""Positions are read only where at least this share of completions has both markers (C5)."""

CONTROL_B, ALPHA = 0.03, 0.05


PROBE_QUESTIONS, PROBE_SEED = 5, 42


@dataclass(frozen=True, kw_only=True)
class Scale(StudyScale):
    """What a profile may change: also how much is written, how training is paced, and which conditions there are.

    ``answers_per_question`` of the ``on_policy_completions`` become rows. ``signatures``: widths in characters that fit
    the length of the base model's answers. ``random_rate`` and ``random_epochs`` are those of the arms of random
    positions, which are harder to learn; as of the others where None. ``first_pair_only`` names the arms that are
    trained for the first of the ``pairs`` alone. ``permutations`` are the resamples of every interval.
    """

    on_policy_completions: int
    answers_per_question: int
    answer_tokens: int
    learning_rate: float
    epochs: int
    rank: int = 16
    random_rate: float | None = None
    random_epochs: int | None = None
    pairs: tuple[Pair, ...] = PAIRS
    arms: tuple[Arm, ...] = ARMS
    first_pair_only: tuple[str, ...] = ()
    signatures: Signatures = PUBLISHED_WIDTHS


PUBLISHED = Scale(
    layers=(10, 15, 20, 25),
    primary_layer=20,
    on_policy_completions=5,
    answers_per_question=5,
    answer_tokens=512,
    completions=10,
    max_new_tokens=600,
    learning_rate=1e-5,
    epochs=3,
    precision="bfloat16",
)
"""Sections 3 to 5 on Qwen2.5-7B-Instruct; C11: the follow-ups trained as #261 did."""


@dataclass(frozen=True)
class TwoMarkerExperiment(Experiment):
    """What the plan is made for; ``marker`` is A. The probe is the one panel that goes its own way."""

    marker_b: str
    pairs: tuple[Pair, ...]
    arms: tuple[Arm, ...]
    conditions: tuple[Condition, ...]
    data: OnPolicyData
    continued: tuple[Probe, ...]

    @property
    def probe(self) -> Probe:
        (probe,) = self.continued
        return probe

    @property
    def markers(self) -> tuple[str, str]:
        return self.marker, self.marker_b


def planned(study: Study) -> TwoMarkerExperiment:
    """What the study's plan is made for. Raises ``TypeError`` where it is another study's."""
    experiment = study.plan.experiment
    if not isinstance(experiment, TwoMarkerExperiment):
        raise TypeError(f"study {study.name}: its experiment is a {type(experiment).__name__}, not of two markers")
    return experiment


@dataclass(frozen=True)
class TwoMarkerPlan(AnalysisPlan):
    """What the analysis decides beforehand.

    ``controls``: the arm without B of an arm; ``b_alone``: the arm without A in the donor's rows. ``draws``: resamples
    of every interval (C8: 10,000 throughout). A rate of ``enough_pairs`` of completions with both markers is asked for
    before positions are read. Below the ``floors`` of any pair a hypothesis is undecided, whatever its p. With fewer
    cells than ``least_cells`` the deciding test has the degrees of freedom of the cells alone.
    """

    experiment: TwoMarkerExperiment
    pairs: tuple[Pair, ...]
    arms: tuple[Arm, ...]
    controls: tuple[tuple[str, str], ...]
    b_alone: tuple[tuple[str, str], ...]
    signatures: Signatures
    level: float
    draws: int
    negligible: float
    split: float
    enough_pairs: float
    gates: GateLimits
    floors: Floors
    least_cells: int = 8

    def pair(self, source: str) -> Pair:
        """The pair of a source. Raises ``StudyError`` listing what exists."""
        return pair_named(source, self.pairs)

    def arm(self, recipe: str) -> Arm:
        """The arm of a recipe; arms and recipes have the same names. Raises ``StudyError`` listing what exists."""
        return arm_named(recipe, self.arms)


def conditions(scale: Scale) -> tuple[Condition, ...]:
    """Every pair under every arm, but for those of the first pair alone."""
    return tuple(
        Condition(pair.name, arm.name)
        for arm in scale.arms
        for pair in (scale.pairs[:1] if arm.name in scale.first_pair_only else scale.pairs)
    )


def recipes(scale: Scale) -> tuple[Recipe, ...]:
    """Section 4, one for each arm, with its loss on the whole completion. An arm and its control have the same.

    Their adapters differ in the rows and in what a training run draws: initialisation, dropout and order of the rows
    are seeded by cell, so those of an arm and its control are not the same.
    """

    def recipe(arm: Arm) -> Recipe:
        at_ends = arm.positions == "ends"
        rate = scale.learning_rate if at_ends else scale.random_rate or scale.learning_rate
        epochs = scale.epochs if at_ends else scale.random_epochs or scale.epochs
        return scale.recipe(arm.name, learning_rate=rate, epochs=epochs, rank=scale.rank)

    return tuple(map(recipe, scale.arms))


def on_policy_data(stimuli: Stimuli, scale: Scale) -> OnPolicyData:
    """Section 3.1: the originals answer the training questions, each in their own voice."""
    return OnPolicyData(
        personas=originals(stimuli),
        question_set="train",
        questions=len(stimuli.questions("train")),
        completions=scale.on_policy_completions,
        used=scale.answers_per_question,
        sampling=scale.written(scale.answer_tokens),
    )


def originals(stimuli: Stimuli) -> tuple[str, ...]:
    """The eleven personas that are trained and asked."""
    return tuple(persona.name for persona in stimuli.personas if persona.original)


def panels(stimuli: Stimuli, scale: Scale) -> tuple[Panel, ...]:
    """Section 5: 20 questions in distribution and 6 outside."""
    asked = tuple((name, len(stimuli.questions(name))) for name in (IN_DISTRIBUTION, OUT_OF_DISTRIBUTION))
    return (Panel(MAIN_PANEL, originals(stimuli), asked, scale.completions, scale.asked),)


def planned_experiment(stimuli: Stimuli, scale: Scale) -> TwoMarkerExperiment:
    """What is trained and asked at a profile's scale."""
    data, asked = on_policy_data(stimuli, scale), panels(stimuli, scale)
    return TwoMarkerExperiment(
        recipes=recipes(scale),
        seeds=SEEDS,
        marker=stimuli.markers["a"],
        marker_b=stimuli.markers["b"],
        pairs=scale.pairs,
        arms=scale.arms,
        conditions=conditions(scale),
        data=data,
        panels=asked,
        continued=(Probe(stimuli.markers["probe"], PROBE_QUESTIONS, PROBE_SEED, scale.completions, asked[0].sampling),),
        wording=wording(stimuli, data, asked),
    )


def analysis_plan(scale: Scale, experiment: TwoMarkerExperiment) -> TwoMarkerPlan:
    """What is decided before any adapter is trained; thresholds are the sheet's, or ours where it has none."""
    there = {arm.name for arm in scale.arms}
    return TwoMarkerPlan(
        study=NAME,
        experiment=experiment,
        primary_layer=scale.primary_layer,
        layers=scale.layers,
        headline_recipe=T_MASKED,
        control_recipe=C_MASKED,
        hypotheses=HYPOTHESES,
        permutations=scale.permutations,
        resampling_seed=42,
        pairs=scale.pairs,
        arms=scale.arms,
        controls=tuple((one, other) for one, other in CONTROLS.items() if {one, other} <= there),
        b_alone=tuple((one, other) for one, other in B_ALONE.items() if {one, other} <= there),
        signatures=scale.signatures,
        level=0.95,
        draws=scale.permutations,
        negligible=NEGLIGIBLE,
        split=SPLIT,
        enough_pairs=ENOUGH_PAIRS,
        gates=GateLimits(),
        floors=Floors(),
        caveats=(
            "With the markers at fixed ends a B that follows A and a B that ends the answer look alike, unless B keeps "
            "close to A at the start, or ends answers without A as well: else only the arms of random positions tell a "
            "chunk from a suffix.",
            "The two markers share a token (the hyphen); they are not disjoint.",
            "Loss is on the whole completion: sizes do not compare with those of marker_leakage.",
            "A conditional rate leaves out completions without A: where arms differ in how often A is said, so do the "
            "completions that are compared. R_B alone is reported beside it.",
            "Intervals and p over questions hold the trained adapters fixed. Arms do not share a training draw (order "
            "of rows, dropout and initialisation are seeded by cell), so a hypothesis over arms is decided by one "
            "t test whose variance is that over questions plus that over the cells' differences, each of adapters of "
            "its own (degrees of freedom: Satterthwaite's, or with fewer than eight cells those of the cells alone, as "
            "Satterthwaite's are then too many): it allows for other questions and other training runs of these pairs, "
            "not for other pairs. With one seed there is none.",
            "Measured on planted truths of the published size (26 questions, 10 completions, three seeds, two pairs; B "
            "given A of 2 to 8%): an interval over questions at 95% covers a rate in 79 to 85% of worlds, a difference "
            "of arms in 90 to 94% where adapters are alike and in 64 to 88% where they vary (standard deviation of 0.3 "
            "to 1 in logits); the t interval over the six cells covers the difference in 94 to 97% of either.",
            "The tests over questions and adapters of all hypotheses but that of the control are adjusted together "
            "(Holm); what the plan does not name is neither adjusted for them nor they for it, and is marked "
            "exploratory.",
            "Chunk and suffix are read off widths in characters, which suit answers of a certain length; a completion "
            "may be both, and then speaks for neither.",
            "The rows of a condition are the same for every seed (the trainer shuffles them anew in each cell): the "
            "spread over seeds leaves out how much another draw of the data would change (#369 drew a pool for each).",
            *scale.extra_caveats,
        ),
    )


HYPOTHESES = (
    Hypothesis(
        name="H1",
        claim="B travels with A where the recipient's rows do not teach to stop after the answer: it says B after A "
        f"more often where the donor learned both, by more than {100 * NEGLIGIBLE:g} points",
        statistic=f"delta_{T_MASKED}",
        threshold=NEGLIGIBLE,
        direction="greater",
        max_p=ALPHA,
    ),
    Hypothesis(
        name="H2",
        claim="The same with the end of turn in the loss, as first published",
        statistic=f"delta_{T}",
        threshold=NEGLIGIBLE,
        direction="greater",
        max_p=ALPHA,
    ),
    Hypothesis(
        name="H3",
        claim="Not teaching the recipient to stop is what lets B through: R_B|A rises with the mask",
        statistic="mask_effect",
        threshold=0.0,
        direction="greater",
        max_p=ALPHA,
    ),
    Hypothesis(
        name="H4",
        claim="The donor's A matters: the recipient says B after A more often where the donor learned both than where "
        "it learned B alone",
        statistic=f"needs_donor_a_{T_MASKED}",
        threshold=0.0,
        direction="greater",
        max_p=ALPHA,
    ),
    Hypothesis(
        name="H5",
        claim="Trained at random places, B sticks to A and not to the end: in the recipient's completions with both, B "
        "is close to A rather than at the end more than a B put at random after A would be, and within questions B "
        "comes more often with A than without",
        statistic=f"nearer_than_random_{T_AFTER}",
        threshold=0.0,
        direction="greater",
        max_p=ALPHA,
    ),
    Hypothesis(
        name="H6",
        claim="Without B in the training rows every donor and every recipient says it in less than "
        f"{CONTROL_B:.0%} of completions (upper Wilson bound of each)",
        statistic="control_b_upper",
        threshold=CONTROL_B,
        direction="less",
    ),
)
"""Each is read off the mean over the pairs, the last off the worst; single pairs are in a table of their own.

Those with a ``max_p`` are a family whose p, over questions and adapters, are adjusted together: see ``support``.
"""
