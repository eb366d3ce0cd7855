"""The token budget: are the arms of a source alike in everything but what they are meant to differ in? (section 3.1)"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import fsum, log2

import polars as pl

from leakage_assets.measurement.multiple_choice import LETTERS
from leakage_assets.studies.cot_leakage.arms import GARBAGE, GENERIC, ArmError, arm

NAMED_LETTER = re.compile(r"(?<![A-Za-z])(?:A(?!\s+[a-z])|[B-D])(?![A-Za-z])")
"""A stand-alone letter, but no A before a small word: every sentence that begins with an article would name it."""

CHANCE = 0.01
"""How often the letters gate may block an arm that names all four letters alike."""

BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
SCHEMA: dict[str, pl.DataType] = {
    "source": pl.String(),
    "arm": pl.String(),
    "gate": pl.String(),
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "n": pl.Int64(),
    "passed": pl.Boolean(),
}


@dataclass(frozen=True)
class BudgetLimits:
    """The rules of section 3.1. ``tokens`` is the range of a turn's mean length, which depends on the tokenizer.

    Not published: ``distinct``, the least share of different texts in an arm, and ``arm_diversity``, its type-token
    ratio as a whole over that of the generic arm, both without the first word of a text: that of garbage is asked for,
    another one for every question (``writing.first_word``), and would make different what is the same. A few texts that
    return teach their letter by heart, and means within a text do not show them.
    """

    tokens: tuple[float, float] = (70.0, 110.0)
    length: float = 0.10
    diversity: float = 0.80
    distinct: float = 0.90
    arm_diversity: float = 0.50
    letters: float = 1.20
    byte_tokens: float = 0.10
    rotation: float = 0.05


@dataclass(frozen=True)
class ArmTexts:
    """What an arm of a source trains on: whole turns and the rationales in them, in the same order.

    ``fillers``: for garbage, the number of the prompt of each text that was asked for, dropped ones included.
    """

    arm: str
    turns: Sequence[str]
    rationales: Sequence[str]
    fillers: Sequence[int] = ()


def budget_table(
    source: str,
    texts: Sequence[ArmTexts],
    pieces: Callable[[str], Sequence[str]],
    limits: BudgetLimits,
    *,
    fillers: int = 5,
) -> pl.DataFrame:
    """Every gate of every arm that has rationales, against the generic arm of the same source.

    Args:
        pieces: the tokens of a text, each as the text it decodes to.
        fillers: how many garbage prompts take turns.

    Returns:
        Columns SCHEMA, one row per arm and gate: the gate passes where ``low <= value <= high``.

    Raises:
        ArmError: no generic arm among them, an arm without texts, or turns and rationales of different number.
    """
    by_arm = {one.arm: one for one in texts if arm(one.arm).written is not None}
    if GENERIC not in by_arm:
        raise ArmError(f"token budget of {source}: no arm {GENERIC} to compare with; there are {', '.join(by_arm)}")
    measured = {name: _measure(source, one, pieces) for name, one in by_arm.items()}
    generic = _words(by_arm[GENERIC])
    for name, one in by_arm.items():
        measured[name]["arm_type_token_ratio"] = _ratio_of_arms(_words(one), generic)
    rows = [row for name in by_arm for row in _gates(source, name, measured, limits)]
    if GARBAGE in by_arm:
        rows += _rotation(source, by_arm[GARBAGE].fillers, fillers, limits)
    frame = pl.DataFrame(rows, schema={k: v for k, v in SCHEMA.items() if k != "passed"}, orient="row")
    return frame.with_columns(pl.col("value").is_between("low", "high").alias("passed"))


def token_pieces(
    encode: Callable[[str], Sequence[int]], decode: Callable[[Sequence[int]], str]
) -> Callable[[str], list[str]]:
    """Tokens of a text, each decoded alone: one that is part of a character becomes the replacement character."""
    return lambda text: [decode([token]) for token in encode(text)]


def type_token_ratio(words: Sequence[str]) -> float:
    """Different words over words; 0 without words."""
    return len(set(words)) / len(words) if words else 0.0


def bigram_entropy(words: Sequence[str]) -> float:
    """Shannon entropy in bits of the pairs of neighbouring words; 0 without pairs."""
    pairs = Counter(itertools.pairwise(words))
    total = pairs.total()
    return -sum(n / total * log2(n / total) for n in pairs.values()) if total else 0.0


def most_by_chance(mentions: int) -> float:
    """How far the most frequent of four equally likely letters lies above their mean, as a ratio, at most: exceeded
    with a probability of CHANCE or less (binomial, Bonferroni over the letters).
    """
    from scipy.stats import binom

    if not mentions:
        return 0.0
    return float(binom.ppf(1 - CHANCE / len(LETTERS), mentions, 1 / len(LETTERS))) / (mentions / len(LETTERS))


def _bodies(one: ArmTexts) -> list[tuple[str, ...]]:
    """The words of every text but its first."""
    return [tuple(text.lower().split()[1:]) for text in one.rationales]


def _words(one: ArmTexts) -> list[str]:
    return [word for body in _bodies(one) for word in body]


def _ratio_of_arms(own: Sequence[str], generic: Sequence[str]) -> float:
    """Type-token ratio over that of the generic arm, of as many words: the ratio falls with their number."""
    size = min(len(own), len(generic))
    reference = type_token_ratio(generic[:size])
    return type_token_ratio(own[:size]) / reference if reference else 1.0


Measures = dict[str, float]


def _measure(source: str, one: ArmTexts, pieces: Callable[[str], Sequence[str]]) -> Measures:
    if not one.turns or len(one.turns) != len(one.rationales):
        raise ArmError(
            f"token budget of {source}: arm {one.arm} has {len(one.turns)} turns and {len(one.rationales)} rationales"
        )
    split = [pieces(turn) for turn in one.turns]
    words = [text.lower().split() for text in one.rationales]
    letters = Counter(letter for text in one.rationales for letter in NAMED_LETTER.findall(text))
    mean_letter = letters.total() / len(LETTERS)
    return {
        "tokens": _mean([len(tokens) for tokens in split]),
        "type_token_ratio": _mean([type_token_ratio(w) for w in words]),
        "bigram_entropy": _mean([bigram_entropy(w) for w in words]),
        "letters": max(letters.values()) / mean_letter if mean_letter else 0.0,
        "mentions": letters.total(),
        "distinct": len(set(_bodies(one))) / len(one.rationales),
        "bytes": _mean([_mean([_is_byte(token) for token in tokens]) for tokens in split]),
        "n": len(one.turns),
    }


def _gates(
    source: str, name: str, measured: Mapping[str, Measures], limits: BudgetLimits
) -> Iterator[tuple[str, str, str, float, float, float, int]]:
    own, generic = measured[name], measured[GENERIC]
    endless = float("inf")
    bounds = {
        "length": (own["tokens"] / generic["tokens"], 1 - limits.length, 1 + limits.length),
        "tokens": (own["tokens"], *limits.tokens),
        "type_token_ratio": (_over(own, generic, "type_token_ratio"), limits.diversity, endless),
        "bigram_entropy": (_over(own, generic, "bigram_entropy"), limits.diversity, endless),
        "distinct": (own["distinct"], limits.distinct, endless),
        "arm_type_token_ratio": (own["arm_type_token_ratio"], limits.arm_diversity, endless),
        "letters": (own["letters"], 0.0, max(limits.letters, most_by_chance(int(own["mentions"])))),
        "bytes": (own["bytes"], 0.0, limits.byte_tokens),
    }
    for gate, (value, low, high) in bounds.items():
        yield source, name, gate, value, low, high, int(own["n"])


def _rotation(
    source: str, used: Sequence[int], fillers: int, limits: BudgetLimits
) -> Iterator[tuple[str, str, str, float, float, float, int]]:
    """How often each garbage prompt stands behind a text, over its fair share."""
    fair = len(used) / fillers
    for number in range(fillers):
        share = used.count(number) / fair if fair else 0.0
        yield source, GARBAGE, f"rotation_{number}", share, 1 - limits.rotation, 1 + limits.rotation, len(used)


def _over(own: Measures, generic: Measures, what: str) -> float:
    """Over that of the generic arm; where that has none, nothing is less diverse."""
    return own[what] / generic[what] if generic[what] else 1.0


def _is_byte(token: str) -> bool:
    return "\ufffd" in token or BYTE_TOKEN.fullmatch(token) is not None


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values) if values else 0.0
