"""What must hold before anything of the study is trained: rationales, letters and token budget, as blocking checks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import polars as pl

from leakage_assets.measurement.multiple_choice import LETTERS
from leakage_assets.studies.cot_leakage.writing import Filtered, Limits
from leakage_assets.studies.prechecks import Precheck


def rationale_checks(filtered: Mapping[str, Filtered], limits: Limits) -> Iterator[Precheck]:
    """Shares of refused and dropped texts of every arm (named by the keys)."""
    for name, found in filtered.items():
        counts = ", ".join(
            f"{sum(reason == r for r in found.dropped.values())} {reason}"
            for reason in sorted(set(found.dropped.values()))
        )
        detail = f"{len(found.rationales)} of {found.asked} rationales kept" + (f"; {counts}" if counts else "")
        for what, share, most in (
            ("refused", found.share("refusal"), limits.most_refused),
            ("dropped", found.share(), limits.most_dropped),
        ):
            yield Precheck(f"{name} {what}", share, most, "ok" if found.asked and share <= most else "block", detail)


def letter_checks(letters: Mapping[str, Sequence[str]], limits: Limits) -> Iterator[Precheck]:
    """Shares of the letters that every arm (named by the keys) teaches: the one farthest out of each arm."""
    low, high = limits.letter_share
    for name, taught in letters.items():
        shares = {letter: taught.count(letter) / len(taught) if taught else 0.0 for letter in LETTERS}
        worst = max(shares, key=lambda letter: max(low - shares[letter], shares[letter] - high))
        inside = low <= shares[worst] <= high
        detail = f"{worst}: {shares[worst]:.1%} of {len(taught)} rows; between {low:.0%} and {high:.0%}"
        limit = low if shares[worst] < (low + high) / 2 else high
        yield Precheck(f"{name} letters", shares[worst], limit, "ok" if inside else "block", detail)


def budget_checks(table: pl.DataFrame) -> Iterator[Precheck]:
    """Every gate of the token budget (``budget.budget_table``)."""
    for row in table.iter_rows(named=True):
        within = (
            f"at least {row['low']:.3g}" if row["high"] == float("inf") else f"{row['low']:.3g} to {row['high']:.3g}"
        )
        limit = row["low"] if row["value"] < row["low"] or row["high"] == float("inf") else row["high"]
        outcome = "ok" if row["passed"] else "block"
        name = f"{row['source']} {row['arm']} {row['gate']}"
        yield Precheck(name, row["value"], limit, outcome, f"{within}; {row['n']} texts")  # type: ignore[arg-type]


def accuracy_checks(base: pl.DataFrame, scaffolds: Collection[str], least: float) -> Iterator[Precheck]:
    """Whether the untrained base answers well enough, under each scaffold, for a loss to be seen.

    ``base``: its answers (``evaluation.read_choices``).
    """
    for name in sorted(scaffolds):
        asked = base.filter(scaffold=name)
        share = float(asked["right"].sum()) / asked.height if asked.height else 0.0
        detail = f"of {asked.height} answers of the untrained base"
        yield Precheck(f"base accuracy {name}", share, least, "ok" if share >= least else "block", detail)
