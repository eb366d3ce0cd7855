"""Efficiencies come from measurements alone, and forecasts from efficiencies."""

from __future__ import annotations

from pathlib import Path

import pytest

from leakage_assets.planning import reference
from leakage_assets.planning.efficiency import (
    Measured,
    ledger_efficiencies,
    measured_efficiencies,
    sampling_kind,
    training_kind,
)
from leakage_assets.planning.forecast import (
    NO_MEASUREMENT,
    Stage,
    forecast_stage,
    hours,
    overhead,
    reference_forecasts,
    size,
)
from leakage_assets.planning.hardware import HARDWARE
from leakage_assets.planning.ledger import Ledger, read_ledger
from leakage_assets.planning.work import Work
from leakage_assets_tests.planning.results import FIGURES, write_result

H200, H100 = HARDWARE["h200"], HARDWARE["h100"]
JOBS = {"train_14_adapters_s", "generate_100800_s", "centroids_s", "dagster_207_s"}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    write_result(tmp_path)
    return read_ledger(tmp_path)


def test_a_rate_is_read_against_the_limit_of_its_own_job(ledger: Ledger) -> None:
    found = ledger_efficiencies(ledger, H200)
    work = reference.training_207()
    assert found["training"].share == pytest.approx(work.floor(H200) / (work.tokens / FIGURES["train_tokens_per_s"]))
    assert found["training"].source == "train_tokens_per_s of result made_up"
    assert found.keys() == {
        "training",
        "reading",
        "sampling base",
        "sampling one adapter",
        "sampling many adapters",
    }
    assert all(0 < efficiency.share < 1 for efficiency in found.values())


def test_a_rate_at_the_limit_has_the_whole_share(tmp_path: Path) -> None:
    work = reference.training_207()
    write_result(tmp_path, figures={"train_tokens_per_s": work.tokens / work.floor(H200)})
    assert ledger_efficiencies(read_ledger(tmp_path), H200)["training"].share == pytest.approx(1.0)


def test_nothing_is_taken_from_other_hardware(ledger: Ledger) -> None:
    assert ledger_efficiencies(ledger, H100) == {}
    assert reference_forecasts(ledger, H100) == {}


def test_forecasts_of_jobs_take_their_tokens_at_the_measured_rate(ledger: Ledger) -> None:
    found = reference_forecasts(ledger, H200)
    assert found.keys() == JOBS
    train, sample = 14 * 194 * 5 * 300 / 14_000, 100_800 * 200 / 25_000
    assert found["train_14_adapters_s"] == pytest.approx(train)
    assert found["generate_100800_s"] == pytest.approx(sample)
    assert found["centroids_s"] == pytest.approx(111 * 20 * 51 / 40_000)
    assert found["dagster_207_s"] == pytest.approx(train + sample)


def test_setting_an_adapter_up_is_forecast_for_each(tmp_path: Path) -> None:
    write_result(tmp_path, figures={**FIGURES, "train_setup_s_per_adapter": 1.5})
    found = reference_forecasts(read_ledger(tmp_path), H200)["train_14_adapters_s"]
    assert found == pytest.approx(14 * 194 * 5 * 300 / 14_000 + 14 * 1.5)


def test_the_published_way_of_training_has_a_rate_of_its_own(tmp_path: Path) -> None:
    write_result(tmp_path, figures={"train_tokens_per_s": 9000.0, "train_tokens_per_s_as_published": 3000.0})
    found = ledger_efficiencies(read_ledger(tmp_path), H200)
    assert found[training_kind("packed")].share == pytest.approx(3 * found[training_kind("as_published")].share)
    assert reference_forecasts(read_ledger(tmp_path), H200).keys() == {"train_14_adapters_s"}


def test_what_surrounds_the_work_counts_once_measured(tmp_path: Path) -> None:
    around = {"engine_start_s": 50.0, "base_load_s": 10.0, "step_start_s": 7.0, "adapter_proof_s": 2.0}
    write_result(tmp_path, figures={**FIGURES, **around})
    ledger = read_ledger(tmp_path)
    found = reference_forecasts(ledger, H200)
    work = found["train_14_adapters_s"] + found["generate_100800_s"]
    assert found["dagster_207_s"] - work == pytest.approx(50 + 10 + 3 * 7 + 14 * 2)
    assert overhead("engine_start_s", 3, ledger, H200).total == 150
    missing = overhead("engine_start_s", 3, ledger, H100)
    assert (missing.seconds, missing.total, missing.source) == (None, 0.0, NO_MEASUREMENT)


@pytest.mark.parametrize("figure", list(FIGURES))
def test_no_job_is_forecast_from_its_own_time(figure: str, tmp_path: Path) -> None:
    """A forecast that took the time it is held against could not be wrong."""
    write_result(tmp_path, figures=dict.fromkeys(JOBS, 1.0))
    assert reference_forecasts(read_ledger(tmp_path), H200) == {}
    write_result(tmp_path, figures={**dict.fromkeys(JOBS, 1.0), figure: 1000.0})
    assert all(seconds > 1 for seconds in reference_forecasts(read_ledger(tmp_path), H200).values())


def test_a_stage_without_measurement_has_a_floor_and_no_forecast() -> None:
    work = (Work(5, H200.bfloat16, 0, "bfloat16"), Work(7, 0, 3 * H200.bandwidth, "bfloat16"))
    stage = Stage("samples", "completions", 10, 4, "sampling base", work, "estimate")
    found = forecast_stage(stage, H200, {})
    assert (found.floor, found.limit, found.seconds) == (4.0, "memory bandwidth", None)
    assert found.as_dict()["efficiency_source"] == NO_MEASUREMENT
    assert (stage.tokens, found.as_dict()["tokens"]) == (7, 7)


def test_a_finished_stage_takes_no_time_and_needs_no_measurement() -> None:
    found = forecast_stage(Stage("samples", "completions", 10, 10, "sampling base", ()), H200, {})
    assert (found.floor, found.seconds, found.limit) == (0, 0.0, "nothing left")


def test_work_of_a_store_counts_by_its_time() -> None:
    long = Measured("training", (Work(1, 30 * H200.bfloat16, 0, "bfloat16"),), 60.0)
    short = Measured("training", (Work(1, 1 * H200.bfloat16, 0, "bfloat16"),), 10.0)
    found = measured_efficiencies([long, short], H200)
    assert found.keys() == {"training"}
    assert found["training"].share == pytest.approx(31 / 70)
    assert found["training"].source == "2 earlier of this store, 70 s"


def test_none_one_and_many_adapters_are_different_work() -> None:
    assert [sampling_kind(n) for n in (0, 1, 2, 14)] == [
        "sampling base",
        "sampling one adapter",
        "sampling many adapters",
        "sampling many adapters",
    ]


def test_times_and_sizes_are_said_as_people_say_them() -> None:
    assert [hours(s) for s in (0, 1.26, 99.6, 600, 5400, 9000)] == [
        "0.0 s",
        "1.3 s",
        "100 s",
        "10 min",
        "90 min",
        "2.5 h",
    ]
    assert [size(b) for b in (0, 2**20, 3 * 2**30)] == ["0.0 MiB", "1.0 MiB", "3.0 GiB"]
