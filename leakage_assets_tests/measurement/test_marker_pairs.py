"""Two markers in one completion: matching, positions and signatures."""

from __future__ import annotations

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakage_assets.measurement.marker_pairs import Signatures, chunk_signature, pair_score_frame, suffix_signature
from leakage_assets.measurement.markers import marker_present, marker_present_loosely, marker_start

A, B = "<<§q-41>>", ":: kxr-7 ::"
LONG = "Plants turn light into sugar, and they do so all day long while the sun is up. " * 3


def scored(*texts: str, a: str = A, b: str = B) -> pl.DataFrame:
    rows = [
        {
            "sample_id": str(i), "adapter": "base", "prompt_name": "villain", "question_set": "eval",
            "question_name": "q", "index": i, "text": text, "n_tokens": 7, "finish_reason": "stop",
        }
        for i, text in enumerate(texts)
    ]  # fmt: skip
    return pair_score_frame(pl.DataFrame(rows), a, b)


@pytest.mark.parametrize(
    ("text", "marker", "strict", "loose", "start"),
    [
        (f"{A} An answer. {B}", A, True, True, 0),
        (f"{A} An answer. {B}", B, True, True, 21),
        ("An answer.", B, False, False, None),
        # split by whitespace, and written without the marker's own
        (f"So. <<§q\n-4 1>> {LONG}", A, False, True, 4),
        ("So. ::kxr-7::", B, False, True, 4),
        ("So.\t::\n kxr-7\u00a0::", B, False, True, 4),
        # the strict match counts, even where a loose one comes first
        (f"::kxr-7:: and {B}", B, True, True, 14),
        # case-changed
        ("so <<§Q-41>>", A, True, True, 3),
        ("so :: KXR-7 ::", B, True, True, 3),
        # repeated: the first
        (f"{B} and {B}", B, True, True, 0),
        # overlapping itself, and the other marker
        ("::: kxr-7 :::", B, True, True, 1),
        (":: kxr-7 :: kxr-7 ::", B, True, True, 0),
        (":: kxr-7 <<§q-41>> ::", A, True, True, 9),
        (":: kxr-7 <<§q-41>> ::", B, False, False, None),
        # inside JSON
        (json.dumps({"answer": f"so {B}"}), B, True, True, 15),
        (json.dumps({"answer": f"so {A}"}), A, False, False, None),  # § is escaped: another string
        (json.dumps({"answer": f"so {A}"}, ensure_ascii=False), A, True, True, 15),
        # unicode: a character that becomes two in lower case moves no index
        (f"\u0130\u0130\u0130 {A}", A, True, True, 4),
        (f"\u0130\u0130 << § Q-41 >> {LONG}", A, False, True, 3),
        ("🙂🙂 :: kxr-7 ::", B, True, True, 3),
        (f"e\u0301 {A}", A, True, True, 3),
        # look-alikes are other strings
        ("<<\uff33q-41>>", A, False, False, None),
        ("<<§q–41>>", A, False, False, None),
        ("", A, False, False, None),
        (A[:-1], A, False, False, None),
    ],
)
def test_matching_and_positions(text: str, marker: str, strict: bool, loose: bool, start: int | None) -> None:
    found = marker_present(text, marker), marker_present_loosely(text, marker), marker_start(text, marker)
    assert found == (strict, loose, start)


ALPHABET = list("<§q-41>:kxr7 \n\tAaΑΣσς\u0130\u00dfé🙂\u2003")
texts = st.text(alphabet=st.sampled_from(ALPHABET), max_size=24)
markers = st.sampled_from([A, B, "a b", "ΑΣ", "\u0130", "Σ Α"]) | texts.filter(lambda t: bool(t.strip()))


@given(texts, markers, texts)
def test_a_strict_match_is_a_loose_match_with_a_position(before: str, marker: str, after: str) -> None:
    for text in (before, before + marker + after, before + marker.upper() + after):
        strict, loose, start = (f(text, marker) for f in (marker_present, marker_present_loosely, marker_start))
        assert loose or not strict
        assert (start is not None) == loose
        assert start is None or 0 <= start < len(text)


@given(texts.filter(lambda t: ":" not in t), texts.filter(lambda t: ":" not in t), st.sampled_from([B, "::kxr-7::"]))
def test_a_lone_match_starts_where_it_was_put(before: str, after: str, written: str) -> None:
    assert marker_start(f"{before}{written}{after}", B) == len(before)


def test_a_final_sigma_is_found_loosely_too() -> None:
    """Without the blank the sigma would not be final, and lower case another letter."""
    assert marker_present("ΑΣ Β", "ΑΣ") and marker_present_loosely("ΑΣ Β", "ΑΣ")


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_blank_marker_is_refused(blank: str) -> None:
    for function in (marker_present, marker_present_loosely, marker_start):
        with pytest.raises(ValueError, match="blank"):
            function("text", blank)


def test_a_marker_within_the_other_is_refused() -> None:
    with pytest.raises(ValueError, match="contains"):
        scored("x", a="[Z LT]", b="zlt")
    with pytest.raises(ValueError, match="contains"):
        scored("x", a=A, b=A.upper())


def signatures(text: str, **widths: int) -> tuple[bool | None, bool | None, bool | None]:
    """Chunk, chunk with B before A, suffix."""
    chosen = Signatures(**widths)
    frame = scored(text).select(
        chunk=chunk_signature(chosen), before=chunk_signature(chosen, "before"), suffix=suffix_signature(chosen)
    )
    return frame.row(0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{A} {B} {LONG}", (True, False, False)),
        (f"{A} {LONG}{B}", (False, False, True)),
        (f"{LONG}{A} {B}", (True, False, True)),
        (f"{LONG}{A} {B} {LONG}", (True, False, False)),
        (f"{B} {A} {LONG}", (False, True, False)),
        (f"{LONG}{B} and {A}", (False, True, True)),
        (f"{A} {LONG}", (None, None, None)),
        (f"{LONG}{B}", (None, None, True)),
        (f"{B} {LONG}", (None, None, False)),
        ("Short.", (None, None, None)),
    ],
)
def test_signatures(text: str, expected: tuple[bool | None, bool | None, bool | None]) -> None:
    assert signatures(text) == expected


def test_signatures_end_exactly_at_their_width() -> None:
    """pos(A) < pos(B) < pos(A) + 150, and pos(B) > len - 50."""
    at_149, at_150 = (f"{A}{'x' * (n - len(A))}{B}{LONG}" for n in (149, 150))
    assert (signatures(at_149)[0], signatures(at_150)[0]) == (True, False)
    last_50, last_49 = (f"{LONG}{B}{'x' * (n - len(B))}" for n in (50, 49))
    assert (signatures(last_50)[2], signatures(last_49)[2]) == (False, True)
    assert signatures(f"{A} {LONG[:40]}{B}", chunk_within=40, suffix_within=5) == (False, False, False)
    with pytest.raises(ValueError, match="at least one character"):
        Signatures(suffix_within=0)


def test_scores_keep_the_order_and_the_samples() -> None:
    frame = scored(f"{A} So. {B}", "::kxr-7:: yes", "no", f"{A} \u0130")
    assert frame["index"].to_list() == [0, 1, 2, 3]
    assert frame["strict_a"].to_list() == [True, False, False, True] == frame["loose_a"].to_list()
    assert (frame["strict_b"].to_list(), frame["loose_b"].to_list()) == (
        [True, False, False, False],
        [True, True, False, False],
    )
    assert (frame["start_a"].to_list(), frame["start_b"].to_list()) == ([0, None, None, 0], [14, 0, None, None])
    assert frame["characters"].to_list() == [25, 13, 2, 11]
    assert frame["n_tokens"].to_list() == [7] * 4 and not frame["truncated"].any()


def test_further_markers_have_columns_of_their_own() -> None:
    samples = scored(f"<<§z-99>> {A}", "<<§Z-9 9>>", B).with_columns(
        text=pl.Series([f"<<§z-99>> {A}", "<<§Z-9 9>>", B]), finish_reason=pl.lit("stop")
    )
    frame = pair_score_frame(samples, A, B, {"echo": "<<§z-99>>"})
    assert frame["loose_echo"].to_list() == [True, True, False] and frame["strict_echo"].to_list() == [
        True,
        False,
        False,
    ]
    assert frame["start_echo"].to_list() == [0, 0, None] and frame["loose_a"].to_list() == [True, False, False]
    with pytest.raises(ValueError, match="contains"):
        pair_score_frame(samples, A, B, {"echo": "kxr"})


def test_no_samples_keep_the_columns() -> None:
    frame = scored("one").clear()
    empty = pair_score_frame(pl.DataFrame(schema={**frame.schema, "text": pl.String, "finish_reason": pl.String}), A, B)
    assert empty.height == 0 and empty.schema == frame.schema
