"""What a study's sanity gates say in the UI."""

from __future__ import annotations

import dagster as dg
import polars as pl
import pytest

from leakage_assets.checks import gates_result

GATE = {"source": "one_to_other", "arm": "T", "limit": 0.8, "direction": "at_least"}


def table(*passed: bool | None) -> pl.DataFrame:
    values = {True: 0.9, False: 0.1, None: None}
    rows = [{**GATE, "gate": f"gate {i}", "value": values[one], "passed": one} for i, one in enumerate(passed)]
    return pl.DataFrame(rows, schema_overrides={"value": pl.Float64, "passed": pl.Boolean})


@pytest.mark.parametrize(
    ("passed", "expected"), [((True, True), True), ((True, False), False), ((True, None), False), ((), False)]
)
def test_every_gate_must_be_passed_and_none_stops_anything(passed: tuple[bool | None, ...], expected: bool) -> None:
    found = gates_result(table(*passed) if passed else table(True).clear())
    assert found.passed is expected and found.severity == dg.AssetCheckSeverity.WARN
    assert [found.metadata[name].value for name in ("failed", "unknown", "total")] == [
        passed.count(False), passed.count(None), len(passed),
    ]  # fmt: skip


def test_a_gate_stands_beside_its_rule() -> None:
    text = gates_result(table(False)).metadata["gates"].value
    assert "| one_to_other | T | gate 0 | 0.1 | at least 0.8 | **failed** |" in text
