"""The forecasts of `leakage plan` against the measured times of the committed benchmark runs: within 30%."""

from __future__ import annotations

import pytest

from leakage_assets.planning.forecast import reference_forecasts
from leakage_assets.planning.hardware import HARDWARE, Hardware
from leakage_assets.planning.ledger import read_ledger

JOBS = ("train_14_adapters_s", "generate_100800_s", "centroids_s", "dagster_207_s")
TOLERANCE = 0.30


@pytest.mark.parametrize("figure", JOBS)
@pytest.mark.parametrize("hardware", HARDWARE.values(), ids=lambda hardware: hardware.name)
def test_the_forecast_is_within_30_percent_of_the_measured_time(figure: str, hardware: Hardware) -> None:
    ledger = read_ledger()
    measured, forecast = ledger.on(figure, hardware), reference_forecasts(ledger, hardware).get(figure)
    if measured is None:
        pytest.skip(f"benchmarks/results has no {figure} on {hardware.title}")
    if forecast is None:
        pytest.skip(f"benchmarks/results has no rate on {hardware.title} that {figure} could be forecast from")
    seconds, result = measured
    assert abs(forecast / seconds - 1) <= TOLERANCE, f"{forecast:.1f} s forecast, {seconds:.1f} s in {result.name}"
