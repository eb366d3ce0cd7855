"""Marker tokens are pinned and compared before anything is trained."""

from __future__ import annotations

from functools import partial

import pytest

from leakage_assets.models import load_tokenizer
from leakage_assets.profiles import load_profile
from leakage_assets.stimuli import load_stimuli
from leakage_assets.studies.two_marker_chunk.arms import NEGATIVES, PAIRS
from leakage_assets.studies.two_marker_chunk.tokens import PINNED, MarkerTokens, token_prechecks

MARKERS = load_stimuli().markers
A, B, PROBE = MARKERS["a"], MARKERS["b"], MARKERS["probe"]
SMALL = {7: MarkerTokens(a=(1, 2), b=(3,), probe=2)}


def outcomes(encode, end_of_turn: int = 7, pinned=SMALL) -> dict[str, str]:
    checks = token_prechecks(encode, end_of_turn, a="A", b="B", probe="P", pinned=pinned)
    return {check.name: check.outcome for check in checks}


def test_the_bundled_tokenizer_has_the_pinned_ids() -> None:
    tokenizer = load_tokenizer(load_profile("tiny").base)
    encode = partial(tokenizer.encode, add_special_tokens=False)
    checks = {c.name: c for c in token_prechecks(encode, tokenizer.eos_token_id, a=A, b=B, probe=PROBE)}
    assert {name: c.outcome for name, c in checks.items() if c.outcome != "ok"} == {"tokens shared by A and B": "warn"}
    # C4 in both tokenizers: the hyphen, and nothing else
    assert tokenizer.decode(sorted(set(PINNED[2].a) & set(PINNED[2].b))) == "-"
    assert set(PINNED[151645].a) & set(PINNED[151645].b) == {12}


def test_published_ids() -> None:
    """Section 2 of the sheet: 7, 6 and 7 ids."""
    pinned = PINNED[151645]
    assert (len(pinned.a), len(pinned.b), pinned.probe) == (7, 6, 7)
    assert (A, B, PROBE) == ("<<§q-41>>", ":: kxr-7 ::", "<<§z-99>>")


@pytest.mark.parametrize(
    ("ids", "wrong"),
    [
        ({"A": [1, 2], "B": [3], "P": [1, 9]}, {}),
        ({"A": [1, 4], "B": [3], "P": [1, 9]}, {"tokens of A": "block"}),
        ({"A": [1, 2], "B": [3, 3], "P": [1, 9]}, {"tokens of B": "block"}),
        ({"A": [1, 2], "B": [3], "P": [9]}, {"tokens of probe": "block"}),
        ({"A": [1, 2], "B": [3], "P": [1, 2]}, {"probe differs from A": "block"}),
    ],
)
def test_drift_blocks(ids: dict[str, list[int]], wrong: dict[str, str]) -> None:
    assert {name: o for name, o in outcomes(ids.__getitem__).items() if o != "ok"} == wrong


def test_an_unknown_tokenizer_blocks() -> None:
    assert outcomes(lambda _: [1], end_of_turn=8) == {"marker tokens pinned": "block"}


def test_the_first_tokens_of_all_system_turns_differ() -> None:
    """#354 told the recipient's rows by their first 16 tokens; ours say it themselves, but a panel in which two
    personas began alike could not be compared with it."""
    stimuli, tokenizer = load_stimuli(), load_tokenizer(load_profile("tiny").base)
    names = {*NEGATIVES, *(name for pair in PAIRS for name in pair.trained)}
    starts = {tuple(tokenizer.encode(stimuli.prompt(name), add_special_tokens=False)[:16]) for name in names}
    assert len(starts) == len(names)
