"""Sanity gates: the write-up's list, the one its code had, the follow-up's and our own. All are reported, none stops.

Section 7.1 and ambiguity C1 of the protocol sheet two_marker_chunk: implement the union, report the tallies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

List = Literal["write-up", "code", "follow-up", "own"]
Direction = Literal["at_least", "at_most", "below"]


WITH_A, WITH_A_MASKED = "recipient completions with A, T and C", "recipient completions with A, masked arms"
QUESTIONS_MASKED = "recipient questions with A, masked arms"
COUNTS = (WITH_A, WITH_A_MASKED, QUESTIONS_MASKED)
"""Gates on a number; the others are on a share."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One requirement, the lists it is on, and the value it is read from (None where that does not exist)."""

    name: str
    value: float | None
    limit: float
    direction: Direction
    lists: tuple[List, ...]

    @property
    def passed(self) -> bool | None:
        """None where there is no value."""
        if self.value is None:
            return None
        return {
            "at_least": self.value >= self.limit,
            "at_most": self.value <= self.limit,
            "below": self.value < self.limit,
        }[self.direction]


@dataclass(frozen=True)
class GateLimits:
    """The thresholds of sections 7.1 and 9.2, as the frozen plan holds them."""

    donor_a: float = 0.80
    donor_b: float = 0.80
    donor_b_given_a: float = 0.90
    recipient_a: float = 0.80
    donor_low: float = 0.80
    b_in_c: float = 0.05
    completions_with_a: int = 50
    follow_up_donor_b_given_a: float = 0.70
    follow_up_donor_b_in_c2: float = 0.50
    follow_up_b_in_c: float = 0.03
    length_inflation: float = 0.25


@dataclass(frozen=True)
class Floors:
    """How many completions each side of a planned ratio must rest on (7.1), and how many questions must have any."""

    completions: int = 50
    questions: int = 10


@dataclass(frozen=True)
class GateValues:
    """What the gates of one pair are read from; rates are fractions, None where undefined or not run.

    ``donor_low``: lower bound over questions of the donor's R_B|A under T. ``largest_b_in_c``: of all personas.
    """

    donor_a: float | None
    donor_b: float | None
    donor_b_given_a: float | None
    donor_low: float | None
    recipient_a: float | None
    recipient_b_in_c: float | None
    largest_b_in_c: float | None
    recipient_with_a: int | None
    recipient_with_a_in_c: int | None


def gates(values: GateValues, limits: GateLimits) -> tuple[Gate, ...]:
    """The union of both lists of #261."""
    both: tuple[List, ...] = ("write-up", "code")
    counts = (values.recipient_with_a, values.recipient_with_a_in_c)
    known = [count for count in counts if count is not None]
    fewest = float(min(known)) if len(known) == len(counts) else None
    return (
        Gate("donor R_A", values.donor_a, limits.donor_a, "at_least", both),
        Gate("donor R_B", values.donor_b, limits.donor_b, "at_least", both),
        Gate("donor R_B|A", values.donor_b_given_a, limits.donor_b_given_a, "at_least", both),
        Gate("recipient R_A", values.recipient_a, limits.recipient_a, "at_least", both),
        Gate("donor R_B|A, lower bound", values.donor_low, limits.donor_low, "at_least", ("write-up",)),
        Gate("recipient R_B in C", values.recipient_b_in_c, limits.b_in_c, "at_most", ("write-up",)),
        Gate("largest R_B of a persona in C", values.largest_b_in_c, limits.b_in_c, "below", ("code",)),
        Gate(WITH_A, fewest, limits.completions_with_a, "at_least", ("code",)),
    )


@dataclass(frozen=True)
class FollowUpValues:
    """The same for #369; ``length_inflation``: tokens of the recipient's completions, T over C, minus 1."""

    donor_b_given_a: float | None
    donor_b_in_c2: float | None
    donor_b_in_c: float | None
    recipient_b_in_c: float | None
    length_inflation: float | None


def own_gates(fewest: float | None, fewest_questions: float | None, floors: Floors) -> tuple[Gate, ...]:
    """What the planned ratios of the arms of #369 rest on, for which that study had no gate.

    The fewest completions with A of a recipient in any of its arms, and the fewest questions that have one.
    """
    only: tuple[List, ...] = ("own",)
    return (
        Gate(WITH_A_MASKED, fewest, floors.completions, "at_least", only),
        Gate(QUESTIONS_MASKED, fewest_questions, floors.questions, "at_least", only),
    )


def follow_up_gates(values: FollowUpValues, limits: GateLimits) -> tuple[Gate, ...]:
    """Section 9.2."""
    only: tuple[List, ...] = ("follow-up",)
    return (
        Gate("donor R_B|A", values.donor_b_given_a, limits.follow_up_donor_b_given_a, "at_least", only),
        Gate("donor R_B in C2", values.donor_b_in_c2, limits.follow_up_donor_b_in_c2, "at_least", only),
        Gate("donor R_B in C", values.donor_b_in_c, limits.follow_up_b_in_c, "below", only),
        Gate("recipient R_B in C", values.recipient_b_in_c, limits.follow_up_b_in_c, "below", only),
        Gate("length inflation", values.length_inflation, limits.length_inflation, "below", only),
    )


@dataclass(frozen=True, slots=True)
class Tally:
    """How many gates of a list failed, how many could not be read, of how many."""

    failed: int
    unknown: int
    total: int

    @property
    def coherent(self) -> bool:
        """Whether all passed."""
        return self.total > 0 and self.failed == self.unknown == 0


def tally(found: Sequence[Gate], which: List) -> Tally:
    """Over the gates of one list."""
    passed = [gate.passed for gate in found if which in gate.lists]
    return Tally(passed.count(False), passed.count(None), len(passed))
