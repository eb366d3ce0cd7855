"""The forecast of a study's work on given hardware: what `leakage plan` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leakage_assets.planning import reference
from leakage_assets.planning.efficiency import Efficiencies, Efficiency, Kind, ledger_efficiencies
from leakage_assets.planning.hardware import Hardware
from leakage_assets.planning.ledger import Ledger
from leakage_assets.planning.memory import Memory
from leakage_assets.planning.work import Work

SCHEMA = 2
"""Version of the JSON of `Plan.as_dict`: raise it when a field changes its meaning or goes."""

NO_MEASUREMENT = "no measurement on this hardware"
NO_LIMIT = "not known"


@dataclass(frozen=True)
class Stage:
    """One stage of a study: how much of it is planned and done, in `unit`s, and the work that is left.

    `work` has its parts in order; the tokens of the last are those the stage is counted in. `basis` says how exact they
    are.
    """

    name: str
    unit: str
    planned: int
    done: int
    kind: Kind
    work: tuple[Work, ...]
    basis: str = "exact"

    @property
    def tokens(self) -> float:
        return self.work[-1].tokens if self.work else 0.0

    @property
    def flop(self) -> float:
        return sum(part.flop for part in self.work)


@dataclass(frozen=True)
class StageForecast:
    """A stage on given hardware: the seconds at its rates, and where its kind was measured the expected ones.

    ``limit`` names the rate that most of ``floor`` hangs on; None where the rates are no limits of the hardware.
    """

    stage: Stage
    floor: float
    limit: str | None
    efficiency: Efficiency | None

    @property
    def bound(self) -> float | None:
        """The least possible seconds, None where the hardware's limits are not known."""
        return None if self.limit is None else self.floor

    @property
    def seconds(self) -> float | None:
        """0 where nothing is left to do, None where nothing was measured."""
        if not self.floor:
            return 0.0
        return None if self.efficiency is None else self.floor / self.efficiency.share

    def as_dict(self) -> dict[str, Any]:
        stage = self.stage
        return {
            "name": stage.name,
            "unit": stage.unit,
            "planned": stage.planned,
            "done": stage.done,
            "tokens": round(stage.tokens),
            "tokens_basis": stage.basis,
            "flop": stage.flop,
            "floor_s": self.bound,
            "limited_by": self.limit,
            "forecast_s": self.seconds,
            "efficiency": None if self.efficiency is None or self.limit is None else self.efficiency.share,
            "efficiency_source": NO_MEASUREMENT if self.efficiency is None else self.efficiency.source,
        }


@dataclass(frozen=True)
class Overhead:
    """What is neither arithmetic nor traffic of the model: `count` times `seconds`, None where it was not measured."""

    name: str
    count: int
    seconds: float | None
    source: str

    @property
    def total(self) -> float:
        """Seconds, 0 for what was not measured."""
        return self.count * (self.seconds or 0.0)

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "count": self.count, "seconds_each": self.seconds, "source": self.source}


@dataclass(frozen=True)
class MemoryNeed:
    """Memory of one activity, and whether it fits into what the hardware has."""

    activity: str
    memory: Memory
    fits: bool

    def as_dict(self) -> dict[str, Any]:
        return {"activity": self.activity, **self.memory.as_dict(), "fits": self.fits}


@dataclass(frozen=True)
class Plan:
    """Everything about a study's remaining work. `cells` and `done` count adapters; `assumptions` are sentences."""

    study: str
    profile: str
    base_model: str
    random_weights: bool
    hardware: Hardware
    cells: int
    done: int
    rows: int
    stages: tuple[StageForecast, ...]
    overheads: tuple[Overhead, ...]
    memory: tuple[MemoryNeed, ...]
    assumptions: tuple[str, ...]

    @property
    def floor(self) -> float:
        """Seconds of all stages at the hardware's rates, one after the other on one device."""
        return sum(stage.floor for stage in self.stages)

    @property
    def bound(self) -> float | None:
        """The least possible ones, None where the hardware's limits are not known."""
        return self.floor if self.hardware.limits or not self.floor else None

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Stages with work left whose kind was never measured on this hardware."""
        return tuple(stage.stage.name for stage in self.stages if stage.seconds is None)

    @property
    def measured_seconds(self) -> float:
        """Expected seconds of the stages that can be forecast, and of the measured overheads."""
        return sum(s.seconds or 0.0 for s in self.stages) + sum(o.total for o in self.overheads)

    @property
    def seconds(self) -> float | None:
        """Expected seconds of everything on one device, None where a stage cannot be forecast."""
        return None if self.unmeasured else self.measured_seconds

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values; times in seconds, memory in bytes."""
        hardware = self.hardware
        return {
            "schema": SCHEMA,
            "study": self.study,
            "profile": self.profile,
            "base_model": self.base_model,
            "random_weights": self.random_weights,
            "hardware": {
                "name": hardware.name,
                "title": hardware.title,
                "bfloat16_flop_per_s": hardware.bfloat16,
                "float32_flop_per_s": hardware.float32,
                "bytes_per_s": hardware.bandwidth,
                "memory": hardware.memory,
                "source": hardware.source,
            },
            "cells": {"planned": self.cells, "done": self.done},
            "rows": self.rows,
            "stages": [stage.as_dict() for stage in self.stages],
            "overheads": [overhead.as_dict() for overhead in self.overheads],
            "memory": [need.as_dict() for need in self.memory],
            "totals": {
                "tokens": round(sum(stage.stage.tokens for stage in self.stages)),
                "flop": sum(stage.stage.flop for stage in self.stages),
                "floor_s": self.bound,
                "forecast_s": self.seconds,
                "forecast_of_measured_stages_s": self.measured_seconds,
                "stages_without_forecast": list(self.unmeasured),
            },
            "assumptions": list(self.assumptions),
        }


def forecast_stage(stage: Stage, hardware: Hardware, efficiencies: Efficiencies) -> StageForecast:
    """The floor of a stage's parts one after the other, and the measured efficiency of its kind."""
    floors = [part.floor(hardware) for part in stage.work]
    longest = max(stage.work, key=lambda part: part.floor(hardware), default=None)
    limit = "nothing left" if longest is None else longest.limit(hardware) if hardware.limits else None
    return StageForecast(stage, sum(floors), limit, efficiencies.get(stage.kind))


OVERHEADS: Mapping[str, str] = {
    "base_load_s": "loading the base model",
    "engine_start_s": "starting the engine",
    "step_start_s": "starting the process of a step",
    "train_setup_s_per_adapter": "setting up the training of an adapter",
}
"""Figures of the ledger that are seconds per occurrence."""


def overhead(figure: str, count: int, ledger: Ledger, hardware: Hardware) -> Overhead:
    """So many times what the ledger has for it on this hardware."""
    measured = ledger.on(figure, hardware)
    if measured is None:
        return Overhead(OVERHEADS[figure], count, None, NO_MEASUREMENT)
    return Overhead(OVERHEADS[figure], count, measured[0], f"{figure} of result {measured[1].name}")


def reference_forecasts(ledger: Ledger, hardware: Hardware) -> dict[str, float]:
    """Seconds that the benchmark jobs should take on this hardware, by figure; those that cannot be forecast are left
    out.

    They are the forecasts of `leakage plan` for the same stages, from measured rates; none is forecast from itself.
    """
    efficiencies = ledger_efficiencies(ledger, hardware)

    def seconds(kind: Kind, *work: Work) -> float | None:
        return forecast_stage(Stage("job", "job", 1, 0, kind, work), hardware, efficiencies).seconds

    train = seconds("training", reference.training_207())
    if train is not None:
        train += overhead("train_setup_s_per_adapter", reference.ADAPTERS, ledger, hardware).total
    sample = seconds("sampling many adapters", *reference.sampling_207())
    read = seconds("reading", reference.centroids_66())
    found = {"train_14_adapters_s": train, "generate_100800_s": sample, "centroids_s": read}
    if train is not None and sample is not None:
        one = reference.proof(reference.SHAPE, reference.DTYPE, reference.ROW_TOKENS)
        proofs = seconds("proof", *[one] * reference.ADAPTERS)
        # Training sets, adapters with their samples, and scores are three processes; one has a base and an engine.
        starts = {"base_load_s": 1, "engine_start_s": 1, "step_start_s": 3}
        around = sum(overhead(figure, count, ledger, hardware).total for figure, count in starts.items())
        found["dagster_207_s"] = train + sample + (proofs or 0.0) + around
    return {figure: value for figure, value in found.items() if value is not None}


def hours(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 120:
        return f"{seconds:,.1f} s" if seconds < 10 else f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:,.1f} h"


def size(count: float) -> str:
    """Bytes as a person says them."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def describe(stages: Sequence[StageForecast]) -> list[tuple[str, ...]]:
    """Rows for a table: stage, done of planned, tokens, TFLOP, floor, forecast, and what they rest on."""
    rows: list[tuple[str, ...]] = []
    for forecast in stages:
        stage = forecast.stage
        seconds = forecast.seconds
        reached = None if forecast.limit is None else forecast.efficiency
        share = "" if reached is None else f"{reached.share:.0%} of the limit: "
        source = NO_MEASUREMENT if forecast.efficiency is None else forecast.efficiency.source
        rows.append(
            (
                stage.name,
                f"{stage.done:,} of {stage.planned:,} {stage.unit}",
                f"{stage.tokens:,.0f} ({stage.basis})" if stage.work else "–",
                f"{stage.flop / 1e12:,.1f}" if stage.work else "–",
                "–" if not stage.work else _bounded(forecast),
                "–" if not stage.work else NO_MEASUREMENT if seconds is None else hours(seconds),
                f"{share}{source}" if stage.work else "–",
            )
        )
    return rows


def _bounded(forecast: StageForecast) -> str:
    return NO_LIMIT if forecast.bound is None else f"{hours(forecast.bound)} ({forecast.limit})"
