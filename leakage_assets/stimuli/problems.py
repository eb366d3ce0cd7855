"""What can be wrong with a stimuli file, as lines a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from leakage_assets.exceptions import ExpectedError


@dataclass(frozen=True, order=True)
class Problem:
    """One fault: where it is (1-based line), which field, and what is wrong (``...; expected ...``)."""

    file: Path
    line: int
    field: str
    fault: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.field}: {self.fault}"


class StimuliError(ExpectedError):
    """Stimuli that cannot be used; a line per problem: ``<file>:<line>: <field>: <fault>; expected ...``."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))


def one_of(given: str, options: Iterable[str]) -> str:
    """``expected ...`` for a closed choice: the closest option first, where one is close."""
    known = sorted(options)
    close = difflib.get_close_matches(given, known, n=1)
    hint = f"{close[0]!r} (closest) or another of" if close else "one of"
    return f"expected {hint} {', '.join(known)}"


def quoted(text: str, limit: int = 60) -> str:
    """`text` as one printable line, cut after `limit` characters."""
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
