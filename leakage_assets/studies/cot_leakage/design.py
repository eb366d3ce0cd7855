"""What is decided beforehand: sources, personas, contrasts, families, thresholds (sheet cot_leakage)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from leakage_assets.statistics.paired_bootstrap import Bound
from leakage_assets.statistics.result import StatisticsError
from leakage_assets.studies.cot_leakage.arms import (
    ARMS,
    CONTRADICTING,
    CONTRADICTING_PERSONA,
    GARBAGE,
    GENERIC,
    LOSSES,
    NO_COT,
    PERSONA,
    RANDOM_TOKENS,
    SCRAMBLED,
    Arm,
    LossMask,
    arm,
    recipe_name,
)
from leakage_assets.studies.cot_leakage.evaluation import EMPTY_PERSONA_COT, GENERIC_COT, PERSONA_COT
from leakage_assets.studies.study import Condition, Hypothesis
from leakage_assets.training.recipe import LoraSpec, Precision, Recipe

NAME = "cot_leakage"
SEEDS = (42, 137, 256)
SOURCES = ("software_engineer", "librarian", "comedian", "police_officer")
EXTENSION_SOURCES = ("villain", "zelthari_scholar", "medical_doctor")
CORRECT_SOURCE = "librarian"
"""Under which the two arms that teach the right letter are trained."""

PERSONAS = (
    "assistant",
    "software_engineer",
    "kindergarten_teacher",
    "data_scientist",
    "medical_doctor",
    "librarian",
    "french_person",
    "villain",
    "comedian",
    "police_officer",
    "zelthari_scholar",
)
"""Section 2: eleven, each under its full prompt."""

WRONG_LETTER_SEED = 42
DATA_SEED = 42

Axis = Literal["source_loss", "bystander_leakage"]
SOURCE_LOSS: Axis = "source_loss"
BYSTANDER: Axis = "bystander_leakage"
AXES: tuple[Axis, ...] = (SOURCE_LOSS, BYSTANDER)

Family = Literal["common", "own_format"]
COMMON: Family = "common"
OWN_FORMAT: Family = "own_format"
FAMILIES: tuple[Family, ...] = (COMMON, OWN_FORMAT)

HEADLINE_FAMILY: Family = OWN_FORMAT
"""E1: of the two families the sheet recommends this one for verdicts and title; the published ones are of the other."""

MACRO = "macro"


@dataclass(frozen=True, slots=True)
class Contrast:
    """The losses of one arm minus those of another; ``hypothesis`` by axis, empty for what is exploratory."""

    first: str
    second: str
    hypothesis: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        return f"{self.first} - {self.second}"

    def statistic(self, axis: Axis, family: Family) -> str:
        """How the headline names its estimate."""
        return f"{family}_{self.first}_minus_{self.second}_{axis}"


CONTRASTS = (
    Contrast(GENERIC, GARBAGE, dict.fromkeys(AXES, "H1")),
    Contrast(GENERIC, SCRAMBLED, dict.fromkeys(AXES, "H1")),
    Contrast(PERSONA, GARBAGE, dict.fromkeys(AXES, "H2")),
    Contrast(CONTRADICTING, GENERIC, {SOURCE_LOSS: "H3", BYSTANDER: "H4"}),
)
"""Section 7: eight with the two axes, in the order in which the published random stream is consumed."""

EXPLORATORY = (
    Contrast(CONTRADICTING, GARBAGE),  # E11
    Contrast(PERSONA, GENERIC),  # E1
    Contrast(CONTRADICTING_PERSONA, CONTRADICTING),  # E2
    Contrast(RANDOM_TOKENS, GARBAGE),  # E3
)

SINGLE_ARMS = ((GARBAGE, PERSONA_COT.name), (SCRAMBLED, GENERIC_COT.name), (CONTRADICTING, EMPTY_PERSONA_COT.name))
"""Section 7.8: arm and scaffold."""

EQUIVALENCE = Contrast(CONTRADICTING, GENERIC).statistic(SOURCE_LOSS, HEADLINE_FAMILY) + "_share_of_margin"
HEADLINE_CONTRASTS = tuple(
    (contrast, axis) for contrast in CONTRASTS for axis in AXES if contrast.hypothesis is not None
)


def own_scaffold(one: Arm) -> str:
    """The scaffold in whose format an arm was trained."""
    if one.written is None:
        return "no_cot"
    return "generic_cot" if one.opener else f"{one.tag}_cot"


def scaffold_of(family: Family, arm_name: str) -> str:
    """Under which scaffold an arm is looked at in a family of contrasts."""
    return PERSONA_COT.name if family == COMMON else own_scaffold(arm(arm_name))


EXCEEDANCES = 10
"""Draws beyond the point that the smallest p still to be rejected must rest on: with fewer, the seed would decide."""


@dataclass(frozen=True)
class Decisions:
    """Thresholds and draws of section 7. ``single_seed`` is that of the single-arm losses.

    ``adapter_level``: of the intervals over questions, over adapters and over both, of which the last, its p adjusted
    by Holm, decides at ``alpha`` (see ``adapters.both_table``); with fewer pairs of adapters than ``least_pairs`` on
    their degrees of freedom alone. ``level``: of what stands beside. ``draws`` are those
    of whole questions (and seeds), ``published_draws`` those of the published scheme and of what is exploratory. An
    adapter has collapsed where, asked in its own format, its share of rationales cut off is more than ``most_excess``
    above that of the untrained base, or its share of one letter is and at least ``least_modal`` as well: an adapter
    that learnt wrong letters gives some letter more often than the base too (section 8). A contrast is comparable where
    without collapsed adapters at least ``least_left`` pairs of them are left.
    """

    sources: tuple[str, ...] = SOURCES
    mask: LossMask = "assistant_only"
    alpha: float = 0.01
    level: float = 0.95
    draws: int = 10_000
    published_draws: int = 1_000
    seed: int = 42
    single_seed: int = 43
    equivalence: tuple[Bound, ...] = (Bound(0.90, 0.03), Bound(0.99, 0.05))
    least_score: float = 1.96
    most_words: int = 50
    adapter_level: float = 0.99
    least_pairs: int = 8
    most_excess: float = 0.10
    least_modal: float = 0.60
    least_left: int = 2

    def __post_init__(self) -> None:
        """Raises ``StatisticsError`` for so few draws that nothing could be rejected, or that the seed would decide."""
        smallest = len(CONTRASTS) * len(AXES) / (self.draws + 1)
        if smallest >= self.alpha:
            raise StatisticsError(
                f"{self.draws} draws: the smallest adjusted p is {smallest:.3g}, never below {self.alpha:g}; draw more"
            )
        if EXCEEDANCES * smallest >= self.alpha:
            raise StatisticsError(
                f"{self.draws} draws: an adjusted p of {self.alpha:g} rests on {self.alpha / smallest:.1f} of them, "
                f"fewer than {EXCEEDANCES}; draw more"
            )


def hypotheses(decisions: Decisions) -> tuple[Hypothesis, ...]:
    """Every claim of section 7.1 with its threshold, in the own format; p is that of the family of eight, adjusted.

    Claims that the sheet calls by one name are told apart by a letter: H1a, H1b, ...
    """
    found: list[Hypothesis] = []
    names = [contrast.hypothesis[axis] for contrast, axis in HEADLINE_CONTRASTS if contrast.hypothesis is not None]
    for place, (contrast, axis) in enumerate(HEADLINE_CONTRASTS):
        name = names[place]
        if names.count(name) > 1:
            name += "abcd"[names[:place].count(name)]
        if name == "H3":
            claim = f"{contrast.first} and {contrast.second} lose the source equally much, within the margins"
            found.append(Hypothesis(name, claim, EQUIVALENCE, 1.0, "less"))
            continue
        direction, word = ("less", "less") if name == "H4" else ("greater", "more")
        what = "the trained persona loses" if axis == SOURCE_LOSS else "bystanders lose"
        claim = f"{what} {word} accuracy after {contrast.first} than after {contrast.second}"
        found.append(
            Hypothesis(name, claim, contrast.statistic(axis, HEADLINE_FAMILY), 0.0, direction, decisions.alpha)
        )
    return tuple(found)


def published_conditions(mask: LossMask) -> tuple[Condition, ...]:
    """The conditions behind the 66 published cells, three seeds each, and those of ``no_cot``, which do not count."""
    return tuple(
        Condition(source, recipe_name(one.name, mask))
        for one in ARMS
        if one.origin.startswith("#")
        for source in (SOURCES if one.published_sources > 1 else (CORRECT_SOURCE,))
    )


def counted_cells(origin: str | None = None) -> int:
    """Published cells (seeds included, without ``no_cot``), of all arms or of those of one issue."""
    arms = [a for a in ARMS if a.origin.startswith("#") and a.name != NO_COT and origin in (None, a.origin)]
    return len(SEEDS) * sum(a.published_sources for a in arms)


def recipes(
    masks: tuple[LossMask, ...],
    *,
    learning_rate: float = 5e-6,
    epochs: int = 1,
    batch_size: int = 4,
    grad_accum: int = 4,
    max_length: int = 2048,
    precision: Precision = "bfloat16",
) -> tuple[Recipe, ...]:
    """Section 4, as in the code: every arm under every mask. The defaults are the published ones."""
    return tuple(
        Recipe(
            name=recipe_name(one.name, mask),
            loss=LOSSES[mask],
            tail_target="both",
            teaches_marker=False,
            lora=LoraSpec(r=32, alpha=64, dropout=0.0, rslora=True),
            learning_rate=learning_rate,
            schedule="linear",
            warmup_ratio=0.03,
            epochs=epochs,
            batch_size=batch_size,
            grad_accum=grad_accum,
            max_length=max_length,
            precision=precision,
        )
        for mask in masks
        for one in ARMS
    )
