"""Which words set one body of text apart from another, and how often they occur elsewhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from math import log, sqrt

from leakage_assets.statistics.result import StatisticsError

WORD = re.compile(r"[a-z]+(?:['’][a-z]+)?")


def words(text: str) -> list[str]:
    """The words of a text in small letters; figures and marks are left out."""
    return WORD.findall(text.lower())


def counted(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs in all texts together."""
    return Counter(word for text in texts for word in words(text))


def log_odds_scores(first: Mapping[str, int], second: Mapping[str, int], prior: Mapping[str, int]) -> dict[str, float]:
    """z score of every word of the prior: positive where it belongs to the first body of text.

    The log-odds ratio with an informative Dirichlet prior over its standard deviation (Monroe, Colaresi & Quinn 2008,
    eq. 16, 20 and 22); ``prior`` counts the words of a background text, which both bodies may be part of.

    Raises ``StatisticsError`` where a body has no words, the prior has a word without a count, or fewer than two words.
    """
    n_first, n_second, weight = sum(first.values()), sum(second.values()), sum(prior.values())
    if not n_first or not n_second:
        raise StatisticsError(f"log-odds: {n_first} and {n_second} words; both bodies of text need some")
    if len(prior) < 2 or any(n <= 0 for n in prior.values()):
        raise StatisticsError("log-odds: the prior needs at least two words, each with a positive count")

    def log_odds(count: int, total: int, own: int) -> float:
        return log((count + own) / (total + weight - count - own))

    scores = {}
    for word, own in prior.items():
        y, z = first.get(word, 0), second.get(word, 0)
        difference = log_odds(y, n_first, own) - log_odds(z, n_second, own)
        scores[word] = difference / sqrt(1 / (y + own) + 1 / (z + own))
    return scores


def vocabulary(first: Iterable[str], second: Iterable[str], *, least_score: float, most: int) -> tuple[str, ...]:
    """The words of the first texts that set them apart from the second ones, most telling first, at most ``most``.

    The prior is both together, scaled by nothing: it shrinks words that are rare in both.
    """
    one, other = counted(first), counted(second)
    scores = log_odds_scores(one, other, one + other)
    told = sorted((word for word in scores if scores[word] >= least_score), key=lambda word: (-scores[word], word))
    return tuple(told[:most])
