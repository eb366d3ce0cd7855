"""Sanity gates: both lists of #261 give their published tallies, and each gate turns at its limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leakage_assets.studies.two_marker_chunk.gates import (
    FollowUpValues,
    GateLimits,
    GateValues,
    follow_up_gates,
    gates,
    tally,
)

LIMITS = GateLimits()
PAIR1 = GateValues(247 / 260, 218 / 260, 214 / 247, 0.807, 121 / 260, 0.0, 0.0, 121, 106)
PAIR2 = GateValues(127 / 260, 103 / 260, 103 / 127, 0.712, 79 / 260, 0.0, 0.0, 79, 80)
FINE = GateValues(0.9, 0.9, 0.95, 0.85, 0.9, 0.01, 0.02, 90, 80)
FOLLOW_UP = FollowUpValues(365 / 435, 0.519, 0.0, 0.0, 0.015)


def failed(values: GateValues, which: str) -> list[str]:
    return [gate.name for gate in gates(values, LIMITS) if which in gate.lists and gate.passed is False]


def test_published_tallies() -> None:
    """Section 7.1: 2 and 4 fail with the code's list; under the written list pair 2 fails 5 (C1)."""
    assert failed(PAIR1, "write-up") == ["donor R_B|A", "recipient R_A"] == failed(PAIR1, "code")
    assert failed(PAIR2, "code") == ["donor R_A", "donor R_B", "donor R_B|A", "recipient R_A"]
    assert failed(PAIR2, "write-up") == [*failed(PAIR2, "code"), "donor R_B|A, lower bound"]
    for values, expected in ((PAIR1, (2, 2)), (PAIR2, (5, 4))):
        tallies = [tally(gates(values, LIMITS), which) for which in ("write-up", "code")]
        assert tuple(t.failed for t in tallies) == expected
        assert [(t.unknown, t.total, t.coherent) for t in tallies] == [(0, 6, False)] * 2


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"donor_a": 0.799}, "donor R_A"),
        ({"donor_b": 0.799}, "donor R_B"),
        ({"donor_b_given_a": 0.899}, "donor R_B|A"),
        ({"donor_low": 0.799}, "donor R_B|A, lower bound"),
        ({"recipient_a": 0.799}, "recipient R_A"),
        ({"recipient_b_in_c": 0.051}, "recipient R_B in C"),
        ({"largest_b_in_c": 0.05}, "largest R_B of a persona in C"),
        ({"recipient_with_a": 49}, "recipient completions with A, T and C"),
        ({"recipient_with_a_in_c": 49}, "recipient completions with A, T and C"),
    ],
)
def test_each_gate_turns_at_its_limit(change: dict[str, float], name: str) -> None:
    assert all(gate.passed for gate in gates(FINE, LIMITS))
    found = gates(replace(FINE, **change), LIMITS)
    assert [gate.name for gate in found if not gate.passed] == [name]
    edge = GateValues(0.8, 0.8, 0.9, 0.8, 0.8, 0.05, 0.0499, 50, 50)
    assert all(gate.passed for gate in gates(edge, LIMITS))


def test_what_was_not_run_is_unknown_and_does_not_pass() -> None:
    found = gates(replace(FINE, donor_low=None, recipient_with_a_in_c=None, largest_b_in_c=None), LIMITS)
    assert [gate.name for gate in found if gate.passed is None] == [
        "donor R_B|A, lower bound",
        "largest R_B of a persona in C",
        "recipient completions with A, T and C",
    ]
    assert (tally(found, "code").failed, tally(found, "code").unknown, tally(found, "code").coherent) == (0, 2, False)
    assert not tally(found, "follow-up").coherent


def test_the_published_follow_up_passes() -> None:
    """Section 9.2: 83.9, 51.9, below 3 and 1.5%."""
    found = follow_up_gates(FOLLOW_UP, LIMITS)
    assert all(gate.passed for gate in found) and tally(found, "follow-up").coherent
    for change in (
        {"donor_b_given_a": 0.69}, {"donor_b_in_c2": 0.49}, {"donor_b_in_c": 0.03}, {"recipient_b_in_c": 0.03},
        {"length_inflation": 0.25},
    ):  # fmt: skip
        assert tally(follow_up_gates(replace(FOLLOW_UP, **change), LIMITS), "follow-up").failed == 1
