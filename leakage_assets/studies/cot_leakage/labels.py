"""How the report of chain-of-thought leakage calls and prints what it cites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from leakage_assets.studies.citations import POINTS, RATE
from leakage_assets.studies.cot_leakage.contrasts import BOTH
from leakage_assets.studies.cot_leakage.design import (
    AXES,
    CONTRASTS,
    EQUIVALENCE,
    EXPLORATORY,
    FAMILIES,
    MACRO,
    Contrast,
)
from leakage_assets.studies.cot_leakage.figures import ARM_NAMES, AXIS_NAMES, SCAFFOLD_NAMES

DIFFERENCE, SHARE = POINTS, RATE
"""Accuracies are shares; what is lost between two of them is printed with its sign."""

FAMILY_WORDS = {"common": "persona tag", "own_format": "own format"}
SCHEME_WORDS: Mapping[str, str] = {
    BOTH: "questions and adapters, which decides",
    "pairs": "every question of every seed, as published",
    "questions": "whole questions",
    "questions_and_seeds": "whole questions and seeds",
}


def words(contrast: Contrast) -> str:
    """A contrast in words: ``persona − garbage``."""
    return f"{ARM_NAMES[contrast.first]} − {ARM_NAMES[contrast.second]}"


HEADLINE = {
    contrast.statistic(axis, family): (
        f"{words(contrast)}, {AXIS_NAMES[axis]}, {FAMILY_WORDS[family]}",
        DIFFERENCE,
    )
    for family in FAMILIES
    for contrast in (*CONTRASTS, *EXPLORATORY)
    for axis in AXES
} | {EQUIVALENCE: ("Largest share of an equivalence margin that an interval takes", ".2f")}
"""How each headline statistic is called and printed."""


def source_name(name: str) -> str:
    """A source, or the row of all of them, in a table."""
    return "**mean of sources**" if name == MACRO else f"`{name}`"


BY_NAME = {contrast.name: contrast for contrast in (*CONTRASTS, *EXPLORATORY)}
IN_WORDS: Mapping[str, Callable[[Any], str]] = {
    "arm": ARM_NAMES.__getitem__,
    "axis": AXIS_NAMES.__getitem__,
    "contrast": lambda name: words(BY_NAME[name]),
    "family": FAMILY_WORDS.__getitem__,
    "scaffold": SCAFFOLD_NAMES.__getitem__,
    "scheme": SCHEME_WORDS.__getitem__,
    "source": source_name,
    "unit_of": source_name,
}
"""How the values of label columns are called in a table."""
