"""Checks before training say what was measured, the limit, and block exactly beyond it."""

from __future__ import annotations

import pytest

from leakage_assets.studies.cot_leakage.arms import GENERIC, PERSONA
from leakage_assets.studies.cot_leakage.budget import ArmTexts, BudgetLimits, budget_table
from leakage_assets.studies.cot_leakage.prechecks import budget_checks, letter_checks, rationale_checks
from leakage_assets.studies.cot_leakage.writing import Filtered, Limits


def filtered(refused: int, other: int) -> Filtered:
    reasons = ["refusal"] * refused + ["no_anchor"] * other
    return Filtered(
        {f"k{i}": "text" for i in range(100 - len(reasons))}, {f"d{i}": reason for i, reason in enumerate(reasons)}
    )


@pytest.mark.parametrize(
    ("refused", "other", "outcomes"),
    [(5, 0, ["ok", "ok"]), (6, 0, ["block", "ok"]), (0, 31, ["ok", "block"]), (5, 25, ["ok", "ok"])],
)
def test_rationales_block_beyond_their_limits(refused: int, other: int, outcomes: list[str]) -> None:
    checks = list(rationale_checks({"garbage_cot": filtered(refused, other)}, Limits()))
    assert [check.name for check in checks] == ["garbage_cot refused", "garbage_cot dropped"]
    assert [check.outcome for check in checks] == outcomes
    assert [check.value for check in checks] == pytest.approx([refused / 100, (refused + other) / 100])
    assert f"{100 - refused - other} of 100 rationales kept" in checks[0].detail


def test_an_arm_without_any_text_blocks() -> None:
    assert {check.outcome for check in rationale_checks({"x": Filtered({}, {})}, Limits())} == {"block"}


@pytest.mark.parametrize(
    ("letters", "value", "limit", "outcome"),
    [
        ("ABCD" * 10, 0.25, 0.32, "ok"),
        ("A" * 40 + "B" * 20 + "C" * 20 + "D" * 20, 0.40, 0.32, "block"),
        ("A" * 28 + "B" * 28 + "C" * 28 + "D" * 16, 0.16, 0.18, "block"),
        ("", 0.0, 0.18, "block"),
    ],
)
def test_the_letter_farthest_out_is_shown(letters: str, value: float, limit: float, outcome: str) -> None:
    (check,) = letter_checks({"persona_cot": list(letters)}, Limits())
    assert (check.name, check.value, check.limit, check.outcome) == (
        "persona_cot letters", pytest.approx(value), limit, outcome,
    )  # fmt: skip


def test_every_gate_of_the_budget_is_a_check() -> None:
    words = [" ".join(f"w{i}n{text}" for i in range(40)) for text in range(3)]
    long = ArmTexts(PERSONA, [f"{text} {text}" for text in words], words)
    table = budget_table("villain", [ArmTexts(GENERIC, words, words), long], str.split, BudgetLimits((30, 50)))
    checks = {check.name: check for check in budget_checks(table)}
    assert len(checks) == table.height == 16
    assert {name for name, check in checks.items() if check.outcome == "block"} == {
        "villain persona_cot length", "villain persona_cot tokens",
    }  # fmt: skip
    assert (checks["villain persona_cot length"].value, checks["villain persona_cot length"].limit) == (2.0, 1.1)
    assert checks["villain generic_cot type_token_ratio"].detail == "at least 0.8; 3 texts"
