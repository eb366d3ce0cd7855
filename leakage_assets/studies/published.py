"""Published numbers beside recomputed ones: reading the tables, the figures that were typed in, and the verdicts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from leakage_assets.exceptions import ExpectedError

if TYPE_CHECKING:
    import polars as pl


class ReproductionError(ExpectedError):
    """The published files or the typed-in figures cannot be used. Names the file and the remedy."""


class Known(BaseModel):
    """Where the sheet itself says that the write-up is wrong: the ambiguity's number and the right value."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    by: str
    value: float


Basis = Literal["recomputed", "design", "transcribed"]
"""What a published number is set beside: what other published numbers give, what this package's design counts, or the
same number transcribed a second time. The last says nothing about the number, only about the transcriptions. Studies
with data to recompute from do not tell the first two apart.
"""


class FigureKey(NamedTuple):
    """What a figure is about."""

    block: str
    item: str
    metric: str


class Figure(BaseModel):
    """A printed number: ``precision`` is one unit of its last printed digit, 0 for a count."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    block: str
    item: str
    metric: str
    value: float
    precision: float
    where: str
    relation: Literal["equals", "at_least"] = "equals"
    known: Known | None = None

    @property
    def key(self) -> FigureKey:
        return FigureKey(self.block, self.item, self.metric)


class Headline(BaseModel):
    """The figures of one study. ``inputs`` are numbers that it was computed from and that no published table holds.

    ``known_errors`` says in a sentence what is wrong, for each entry of the sheet that a figure's ``known`` names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    study: str
    issue: int
    sheet: str
    figures: tuple[Figure, ...]
    inputs: Mapping[str, Mapping[str, float]] = {}
    inputs_from: str = ""
    known_errors: Mapping[str, str] = {}

    @model_validator(mode="after")
    def _explained(self) -> Headline:
        named = {figure.known.by for figure in self.figures if figure.known}
        if silent := sorted(named - self.known_errors.keys()):
            raise ValueError(f"known_errors does not say what is wrong by {', '.join(silent)}")
        return self


def read_headline(path: Path) -> Headline:
    """The typed-in figures, validated. Raises ``ReproductionError`` naming the file and the field."""
    if not path.is_file():
        raise ReproductionError(f"{path}: missing; it is part of the repository: git checkout -- {path.name}")
    try:
        return Headline.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "top level"
        raise ReproductionError(f"{path}: {place}: {first['msg']}") from error


def published_file(published: Path, name: str) -> Path:
    """A file of the folder. Raises ``ReproductionError`` where either is missing."""
    if not published.is_dir():
        raise ReproductionError(f"{published}: no such folder; {_remedy(name)}")
    path = published / name
    if not path.is_file():
        raise ReproductionError(f"{path}: no such file; {_remedy(name)}")
    return path


def read_published(
    published: Path, name: str, columns: Mapping[str, type], *, may_be_empty: Collection[str] = ()
) -> pl.DataFrame:
    """The named columns of a published table, with their types.

    Raises ``ReproductionError`` for a missing folder or file, missing columns, and cells that are empty or no numbers.
    """
    import polars as pl

    path = published_file(published, name)
    try:
        header = pl.read_csv(path, n_rows=0).columns
        absent = [column for column in columns if column not in header]
        if absent:
            raise ReproductionError(
                f"{path}: no column {', '.join(map(repr, absent))}; it has {', '.join(header)}; {_remedy(name)}"
            )
        types = {int: pl.Int64, float: pl.Float64, str: pl.String}
        schema = {column: types[kind] for column, kind in columns.items()}
        table = pl.read_csv(path, schema_overrides=schema, columns=list(schema))
    except pl.exceptions.PolarsError as error:
        raise ReproductionError(f"{path}: {str(error).splitlines()[0]}; {_remedy(name)}") from error
    for column in table.columns:
        if column not in may_be_empty and table[column].null_count():
            line = int(table[column].is_null().arg_true()[0]) + 2
            raise ReproductionError(f"{path}:{line}: {column!r} is empty; fetch the file again")
    return table


def figure_row(
    figure: Figure,
    recomputed: Mapping[FigureKey, float | None],
    *,
    tolerance: float,
    path: Path,
    basis: Basis = "recomputed",
) -> dict[str, object]:
    """A typed-in figure beside its recomputed value.

    Only the correction that the sheet gives excuses a claim of the write-up; any other differs. Raises
    ``ReproductionError`` for a figure that nothing recomputes; ``path`` is the file it stands in.
    """
    if figure.key not in recomputed:
        raise ReproductionError(
            f"{path}: the published files give no {' / '.join(figure.key)}; fetch them again, or correct the entry"
        )
    ours = recomputed[figure.key]
    row = comparison(figure.key, figure.value, ours, tolerance, at_least=figure.relation == "at_least", basis=basis)
    if figure.known and ours is not None and within(ours - figure.known.value, tolerance, ours):
        row["verdict"] = f"known: {figure.known.by}"
    return row


def comparison(
    key: FigureKey,
    published: float,
    recomputed: float | None,
    tolerance: float,
    *,
    at_least: bool = False,
    basis: Basis = "recomputed",
) -> dict[str, object]:
    """One row: ``ok``, ``DIFFERS``, or ``undefined`` where the data give no number."""
    difference, verdict = None, "undefined"
    if recomputed is not None:
        difference = recomputed - published
        if at_least:
            difference = min(0.0, difference)
        verdict = "ok" if within(difference, tolerance, published) else "DIFFERS"
    numbers = {"published": published, "recomputed": recomputed, "difference": difference}
    return {**key._asdict(), **numbers, "tolerance": tolerance, "verdict": verdict, "basis": basis}


def comparison_table(rows: Collection[Mapping[str, object]]) -> pl.DataFrame:
    """Columns: block, item, metric, published, recomputed, difference, tolerance, verdict, basis (see ``Basis``)."""
    import polars as pl

    number = dict.fromkeys(("published", "recomputed", "difference", "tolerance"), pl.Float64)
    return pl.DataFrame(rows, schema_overrides=number, infer_schema_length=None)


def within(difference: float, tolerance: float, scale: float) -> bool:
    """Up to the last bits of a number of that size: 10.75 printed as 10.8 is within half a unit."""
    return abs(difference) <= tolerance + 1e-12 * abs(scale)


def _remedy(name: str) -> str:
    return f"give the folder that holds the published {name.split('_', maxsplit=1)[0]}_* files (see its README)"
