from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from leakage_assets.statistics.result import Estimate, StatisticsError, estimate_table, undefined

DEFINED = {
    "name": "rho", "estimate": 0.5, "ci_low": 0.4, "ci_high": 0.6, "ci_level": 0.95, "p": 0.01, "n": 20,
    "unit": "bystander", "method": "Spearman",
}  # fmt: skip


def test_a_row_is_plain_and_serialises() -> None:
    estimate = Estimate(**{**DEFINED, "estimate": np.float32(0.5), "p": np.float64(0.01), "n": np.int64(20)})
    row = estimate.as_row()
    assert json.loads(json.dumps(row)) == {**DEFINED, "undefined": None}
    assert [type(row[k]) for k in ("estimate", "p", "n")] == [float, float, int]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimate": float("nan")}, "estimate is nan"),
        ({"ci_high": float("inf")}, "ci_high is inf"),
        ({"p": np.float64("nan")}, "p is nan"),
        ({"p": 1.5}, "expected 0 to 1"),
        ({"estimate": None}, "reason"),
        ({"undefined": "constant"}, "reason"),
        ({"estimate": None, "undefined": "constant"}, "neither interval nor p"),
        ({"ci_low": None}, "together"),
        ({"ci_level": None}, "together"),
        ({"ci_low": 0.7}, "above"),
        ({"ci_level": 95}, "fraction"),
        ({"n": -1}, "n is -1"),
        ({"unit": ""}, "needed"),
        ({"method": "two\nlines"}, "one-line"),
    ],
)
def test_a_number_that_cannot_be_printed_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(StatisticsError, match=message) as caught:
        Estimate(**{**DEFINED, **change})
    assert "'rho'" in str(caught.value)


def test_undefined_has_a_reason_and_no_number() -> None:
    estimate = undefined("rho", "x is constant", n=5, unit="bystander", method="Spearman")
    assert (estimate.estimate, estimate.p, estimate.ci_low) == (None, None, None)
    assert estimate.undefined == "x is constant"


def test_table_keeps_its_types_when_every_estimate_is_undefined() -> None:
    nothing = undefined("rho", "constant", n=5, unit="bystander", method="Spearman")
    table = estimate_table([({"layer": 20}, nothing)])
    assert table.schema["estimate"] == table.schema["p"] == pl.Float64
    assert table.schema["undefined"] == pl.String
    assert table.columns[:2] == ["layer", "name"]
    assert estimate_table([]).schema["ci_low"] == pl.Float64


def test_the_result_type_is_cheap_to_import() -> None:
    """Asset definitions import it at start-up."""
    script = (
        "import sys, leakage_assets.statistics.result as r; "
        "print(sorted({'numpy', 'scipy', 'polars', 'pandas', 'statsmodels'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_no_module_imports_scipy_stats_or_statsmodels_at_import() -> None:
    modules = "categories, centroid_bootstrap, intervals, layers, multiplicity, pooled, seeds"
    script = (
        f"import sys; from leakage_assets.statistics import {modules}; "
        "print([m for m in ('scipy.stats', 'statsmodels') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
