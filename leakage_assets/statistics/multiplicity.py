"""Adjusted p-values of a family of tests that are read together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from leakage_assets.statistics.result import StatisticsError

if TYPE_CHECKING:
    import polars as pl


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Step-down Bonferroni (Holm 1979).

    A test without a p stays without one but still counts: degenerate data must not shrink the family.
    """
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        raise StatisticsError("holm: an empty family of tests")
    for name, p in p_values.items():
        if p is not None and not 0 <= p <= 1:
            raise StatisticsError(f"holm: p of {name!r} is {p}; expected 0 to 1")
    adjusted = multipletests([1.0 if p is None else p for p in p_values.values()], method="holm")[1]
    return {name: None if p is None else float(a) for (name, p), a in zip(p_values.items(), adjusted, strict=True)}


def with_holm(table: pl.DataFrame, *, tests: str, families: Sequence[str], total: str) -> pl.DataFrame:
    """The table with column ``p_holm`` after ``p``: adjusted within each family, the rows that agree in ``families``.

    ``tests`` names the column that tells the tests of a family apart. The row whose test is called ``total`` is about
    all of them together: it is none of the family and has no adjusted p.
    """
    import polars as pl

    values: list[float | None] = [None] * len(table)
    members: dict[tuple[object, ...], dict[str, int]] = {}
    for row, (test, *family) in enumerate(table.select(tests, *families).iter_rows()):
        if test != total:
            family_rows = members.setdefault(tuple(family), {})
            if test in family_rows:
                raise StatisticsError(f"holm: test {test!r} occurs twice in the family {tuple(family)}")
            family_rows[test] = row
    for rows in members.values():
        for test, p in holm({test: table["p"][row] for test, row in rows.items()}).items():
            values[rows[test]] = p
    place = table.columns.index("p") + 1
    return table.clone().insert_column(place, pl.Series("p_holm", values, dtype=pl.Float64))
