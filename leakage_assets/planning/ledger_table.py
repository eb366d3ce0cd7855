"""The ledger as a table: in the terminal, and in the README between two marker comments."""

from __future__ import annotations

from collections.abc import Sequence

from leakage_assets.planning.ledger import Bound, Ledger, LedgerError, Result

BEGIN = "<!-- benchmarks: written by `leakage bench --write-readme` -->"
END = "<!-- benchmarks: end -->"
NOT_MEASURED = "not measured"
COLUMNS = ("figure", "what", "measured", "published", "bound", "share of limit", "hardware", "weights", "commit")
COMMIT_DIGITS = 9


def ledger_rows(bounds: Sequence[Bound], ledger: Ledger) -> list[tuple[str, ...]]:
    """One row of COLUMNS per figure and result; a figure without result is said to be not measured."""
    rows = []
    for bound in bounds:
        fixed = bound.compared, f"{bound.bound:,}"
        measured = ledger.of(bound.name)
        rows += [(bound.name, bound.what, *_measured(bound, value, result, fixed)) for value, result in measured]
        if not measured:
            rows.append((bound.name, bound.what, NOT_MEASURED, *fixed, "–", "–", "–", "–"))
    return rows


def _measured(bound: Bound, value: float, result: Result, fixed: tuple[str, str]) -> tuple[str, ...]:
    shown = f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"
    weights = "random" if result.random_weights else "trained"
    return (
        shown,
        *fixed,
        f"{bound.share(value):.0%}",
        result.hardware_text,
        weights,
        result.commit[:COMMIT_DIGITS],
    )


def markdown_table(bounds: Sequence[Bound], ledger: Ledger) -> str:
    """The rows as a markdown table; figures in code font."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| `{name}` | {' | '.join(cells)} |" for name, *cells in ledger_rows(bounds, ledger)]
    return "\n".join(lines)


def with_table(readme: str, table: str) -> str:
    """The README with the table between its markers.

    Raises:
        LedgerError: the markers are not there once each and in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise LedgerError(f"README.md: expected one line {BEGIN} and after it one line {END}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"
