"""How alike two prompts are, along the four axes of the trigger study (sheet trigger_leakage, section 6).

Three are read off the texts alone. The fourth is a cosine of what the base model makes of the prompt (see
``centroids.system_turn_vectors``); here it is only centred.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leakage_assets.geometry.centroids import GeometryError, centred_cosine

SEMANTIC, LEXICAL, STRUCTURAL, TASK = "semantic_cos", "lexical_jac", "struct_match", "task_match"
AXES = (SEMANTIC, LEXICAL, STRUCTURAL, TASK)
"""The published four, in the order of the published table."""

SYSTEM_TURN_COSINE = "system_turn_cosine"
"""The published semantic axis as a measure of similarity: see ``semantic_cosines``."""

NO_FAMILY = "none"
"""The family of a prompt that has none: two such prompts match."""

MOST_SENTENCES = 5
LengthBin = Literal["short", "medium", "long"]

_WORD = re.compile(r"\w+")
_IMPERATIVE = re.compile(r"(always|never|reply|respond|read|continue|do|use|output|format)\b", re.IGNORECASE)
# Whole words, in singular or plural: "key" is not in "monkey", but two keys are keys.
_FORMAT = re.compile(r"\b(json|markdown|bullets?|lists?|code fences?|yaml|xml|keys?)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.?!]\s+")
_IDENTITY = re.compile(r"\byou are (a|an|the)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Structure:
    """The five features of a prompt's shape.

    ``length``: short below 15 words between blanks, long above 50. ``imperative``: the first word commands.
    ``format_word``: names an output format. ``sentences``: at most 5 are told apart. ``identity``: says who the
    model is.
    """

    length: LengthBin
    imperative: bool
    format_word: bool
    sentences: int
    identity: bool


def words(prompt: str) -> frozenset[str]:
    r"""The lower-cased ``\w+`` runs of a prompt."""
    return frozenset(_WORD.findall(prompt.lower()))


def lexical_jaccard(one: str, other: str) -> float:
    """Shared words over all words of both (Jaccard 1901), in [0, 1]; 0 where both prompts have no word."""
    ours, theirs = words(one), words(other)
    union = len(ours | theirs)
    return len(ours & theirs) / union if union else 0.0


def structure(prompt: str) -> Structure:
    """The features of a prompt; the empty one is short and has no sentence."""
    text = prompt.strip()
    length = len(text.split())
    return Structure(
        length="short" if length < 15 else "medium" if length <= 50 else "long",
        imperative=_IMPERATIVE.match(text) is not None,
        format_word=_FORMAT.search(text) is not None,
        sentences=min(MOST_SENTENCES, sum(bool(part.strip()) for part in _SENTENCE_END.split(text))),
        identity=_IDENTITY.search(text) is not None,
    )


def structural_match(one: str, other: str) -> float:
    """The share of the five features in which two prompts agree: 0, 0.2, ... 1."""
    ours, theirs = astuple(structure(one)), astuple(structure(other))
    return sum(bool(a == b) for a, b in zip(ours, theirs, strict=True)) / len(ours)


def task_match(one: str | None, other: str | None) -> float:
    """1 where two prompts are of one family, else 0; no family is the family ``none``."""
    return float((one or NO_FAMILY) == (other or NO_FAMILY))


def semantic_cosines(
    vectors: NDArray[np.float32], names: Sequence[str], *, repeated: Sequence[str] = ()
) -> NDArray[np.float64]:
    """Cosines of prompts' vectors around their mean, (P, D) -> (P, P).

    ``repeated`` prompts count twice in the mean. The published mean runs over 38 prompts: the panel's 36, and the
    prompts of the two control conditions, which are in the panel already.

    Raises:
        GeometryError: as ``centred_cosine``, or a repeated name that is not among the prompts.
    """
    unknown = [name for name in repeated if name not in names]
    if unknown:
        raise GeometryError(f"{unknown[0]}: to be counted twice, but it is not among the prompts")
    again = [list(names).index(name) for name in repeated]
    everything = np.concatenate([vectors, vectors[again]]) if again else vectors
    cosines = centred_cosine(everything, [*names, *repeated])[: len(names), : len(names)]
    symmetric: NDArray[np.float64] = (cosines + cosines.T) / 2  # rounding must not break the tie of a pair met twice
    return symmetric


def text_axis(axis: str, one: tuple[str, str | None], other: tuple[str, str | None]) -> float:
    """One of the three axes that need no model, for two (prompt, family). Raises ``GeometryError`` for another name."""
    if axis == LEXICAL:
        return lexical_jaccard(one[0], other[0])
    if axis == STRUCTURAL:
        return structural_match(one[0], other[0])
    if axis == TASK:
        return task_match(one[1], other[1])
    raise GeometryError(f"no text axis {axis!r}; text axes: {', '.join((LEXICAL, STRUCTURAL, TASK))}")
