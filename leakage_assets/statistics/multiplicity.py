"""Adjusted p-values of a family of tests that are read together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from leakage_assets.statistics.result import StatisticsError

if TYPE_CHECKING:
    import polars as pl

Method = Literal["holm", "bonferroni"]


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Step-down Bonferroni (Holm 1979).

    A test without a p stays without one but still counts: degenerate data must not shrink the family.
    """
    return _adjusted(p_values, "holm")


def bonferroni(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Each p times the number of tests, at most 1. A test without a p counts as in ``holm``."""
    return _adjusted(p_values, "bonferroni")


def with_holm(table: pl.DataFrame, *, tests: str, families: Sequence[str], total: str | None = None) -> pl.DataFrame:
    """The table with column ``p_holm`` after ``p``: adjusted within each family, the rows that agree in ``families``.

    ``tests`` names the column that tells the tests of a family apart. The row whose test is called ``total`` is about
    all of them together: it is none of the family and has no adjusted p.
    """
    return _with_adjusted(table, "holm", tests, families, total)


def with_bonferroni(
    table: pl.DataFrame, *, tests: str, families: Sequence[str], total: str | None = None
) -> pl.DataFrame:
    """As ``with_holm``, with column ``p_bonferroni``."""
    return _with_adjusted(table, "bonferroni", tests, families, total)


def _adjusted(p_values: Mapping[str, float | None], method: Method) -> dict[str, float | None]:
    # Not statsmodels' multipletests: it collects garbage in every call, 0.1 s each, most of the time of an analysis.
    if not p_values:
        raise StatisticsError(f"{method}: an empty family of tests")
    for name, p in p_values.items():
        if p is not None and not 0 <= p <= 1:
            raise StatisticsError(f"{method}: p of {name!r} is {p}; expected 0 to 1")
    counted = {name: 1.0 if p is None else float(p) for name, p in p_values.items()}
    adjusted, reached = {}, 0.0
    for rank, name in enumerate(sorted(counted, key=counted.__getitem__)):
        tests = len(counted) if method == "bonferroni" else len(counted) - rank
        reached = max(reached, min(1.0, tests * counted[name]))
        adjusted[name] = reached
    return {name: None if p is None else adjusted[name] for name, p in p_values.items()}


def _with_adjusted(
    table: pl.DataFrame, method: Method, tests: str, families: Sequence[str], total: str | None
) -> pl.DataFrame:
    import polars as pl

    values: list[float | None] = [None] * len(table)
    members: dict[tuple[object, ...], dict[str, int]] = {}
    for row, (test, *family) in enumerate(table.select(tests, *families).iter_rows()):
        if total is None or test != total:
            family_rows = members.setdefault(tuple(family), {})
            if test in family_rows:
                raise StatisticsError(f"{method}: test {test!r} occurs twice in the family {tuple(family)}")
            family_rows[test] = row
    for rows in members.values():
        for test, p in _adjusted({test: table["p"][row] for test, row in rows.items()}, method).items():
            values[rows[test]] = p
    place = table.columns.index("p") + 1
    return table.clone().insert_column(place, pl.Series(f"p_{method}", values, dtype=pl.Float64))
