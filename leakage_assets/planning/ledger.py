"""The ledger: benchmark results committed under benchmarks/results, and what they are compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from leakage_assets.exceptions import ExpectedError
from leakage_assets.paths import BENCHMARKS
from leakage_assets.planning.hardware import Hardware, hardware_called

RESULTS = BENCHMARKS / "results"
BOUNDS = BENCHMARKS / "bounds.yaml"


class LedgerError(ExpectedError):
    """A result or the bounds are not what they must be; the message names file, field and what was expected."""


@dataclass(frozen=True)
class Result:
    """One committed benchmark: exactly these fields.

    `figures` holds numbers by name, and may hold tables; `hardware` is text, or text by part.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    name: str
    command: str
    commit: str
    hardware: str | dict[str, Any]
    versions: dict[str, str]
    random_weights: bool
    figures: dict[str, Any]

    @property
    def hardware_text(self) -> str:
        """The hardware as one line: the GPU where the record is by part and has one."""
        if isinstance(self.hardware, str):
            return self.hardware
        return str(self.hardware.get("gpu") or ", ".join(f"{k} {v}" for k, v in self.hardware.items()))

    def number(self, figure: str) -> float | None:
        """A figure that is a number, or None where this result does not have it.

        Raises:
            LedgerError: it is there, but not a number.
        """
        value = self.figures.get(figure)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise LedgerError(f"result {self.name}: figure {figure} is {value!r}; expected a number")
        return float(value)


@dataclass(frozen=True)
class Bound:
    """A figure of the ledger, and what it is compared with. Where these come from stands in bounds.yaml.

    `better` is "lower" for times and "higher" for rates; `bound` is what one H200 cannot go beyond.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    name: str
    what: str
    better: Literal["lower", "higher"]
    bound: int | float
    published: str | None = None
    earlier: str | None = None
    target: int | None = None
    stretch: int | None = None

    def share(self, measured: float) -> float:
        """How much of the hardware's limit was reached: 1 at the bound."""
        return self.bound / measured if self.better == "lower" else measured / self.bound

    @property
    def compared(self) -> str:
        """The published figure, or an earlier measurement of the published code."""
        return self.published or (f"{self.earlier} (measured before)" if self.earlier else "–")


@dataclass(frozen=True)
class Ledger:
    """All committed results."""

    results: tuple[Result, ...]

    def of(self, figure: str) -> list[tuple[float, Result]]:
        """Every measurement of a figure."""
        return [(value, result) for result in self.results if (value := result.number(figure)) is not None]

    def on(self, figure: str, hardware: Hardware) -> tuple[float, Result] | None:
        """The measurement of a figure on this hardware, or None.

        Raises:
            LedgerError: two results have one.
        """
        found = [(value, result) for value, result in self.of(figure) if _is(hardware, result)]
        if len(found) > 1:
            names = ", ".join(result.name for _, result in found)
            raise LedgerError(f"{figure} on {hardware.title} is in several results: {names}; keep it in one")
        return found[0] if found else None


def read_ledger(folder: Path = RESULTS) -> Ledger:
    """Every `<name>.json` of the folder; empty where there is none.

    Raises:
        LedgerError: a file is not JSON, has other fields or types, or another name than its result.
    """
    return Ledger(tuple(_result(path) for path in sorted(folder.glob("*.json"))))


def read_bounds(path: Path = BOUNDS) -> tuple[Bound, ...]:
    """The figures of the ledger in order.

    Raises:
        LedgerError: the file is missing or has other fields or types.
    """
    try:
        content = yaml.safe_load(path.read_text())
        # By way of JSON: strict validation takes objects for dataclasses only from there.
        return TypeAdapter(tuple[Bound, ...]).validate_json(json.dumps(content["figures"]))
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise LedgerError(f"{path}: unreadable: {error}") from error
    except ValidationError as error:
        raise LedgerError(f"{path}: {_first(error)}") from error


def _result(path: Path) -> Result:
    try:
        result = TypeAdapter(Result).validate_json(path.read_bytes())
    except OSError as error:
        raise LedgerError(f"{path}: unreadable: {error}") from error
    except ValidationError as error:
        raise LedgerError(f"{path}: {_first(error)}") from error
    if result.name != path.stem:
        raise LedgerError(f"{path}: holds the result {result.name!r}; rename one of the two")
    return result


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg']}"


def _is(hardware: Hardware, result: Result) -> bool:
    return hardware_called(result.hardware_text) == hardware
