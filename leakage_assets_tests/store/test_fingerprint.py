"""The identity of a result: one text, one digest, one seed per value, and a named refusal for the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakage_assets.store.fingerprint import FingerprintError, canonical_json, derive_seed, fingerprint

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


class Mask(Enum):
    MARKER = "marker_only"


@dataclass(frozen=True)
class Lora:
    r: object
    alpha: int = 64


@dataclass(frozen=True)
class Recipe:
    lora: Lora
    mask: Mask = Mask.MARKER


@dataclass
class Mutable:
    r: int = 1


def reordered(value: Any) -> Any:
    """An equal value whose dictionaries were filled in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(list(value))}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(VALUES)
def test_canonical_json_does_not_depend_on_key_order(value: object) -> None:
    assert canonical_json(reordered(value)) == canonical_json(value)


@given(VALUES)
def test_canonical_json_survives_being_written_and_read(value: object) -> None:
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text


@given(VALUES, VALUES)
def test_different_values_have_different_fingerprints(one: object, other: object) -> None:
    # repr tells 1, 1.0 and True apart, which == does not.
    same = repr(_sorted(one)) == repr(_sorted(other))
    assert (fingerprint(one) == fingerprint(other)) == same


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def test_the_canonical_form_is_pinned() -> None:
    value = {"b": (1, 1.0, True, None), "a": Recipe(Lora(r=32)), "marker": "※ zlt"}
    assert canonical_json(value) == (
        '{"a":{"lora":{"alpha":64,"r":32},"mask":"marker_only"},"b":[1,1.0,true,null],"marker":"※ zlt"}'
    )
    assert fingerprint(["marker_leakage", 1]) == ("e8260594ce3a3ce952db5913fca4380e2f477b2deb13ddb62a5eb359576fe9fb")


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (float("nan"), "nan is not JSON"),
        (float("-inf"), "-inf is not JSON"),
        ({"a", "b"}, "a set has no order"),
        (frozenset({1}), "a set has no order"),
        (Path("/data"), "a path is where, not what"),
        (np.float64(1.0), "numpy.float64"),
        (np.str_("a"), "numpy.str_"),
        (np.arange(2), "numpy.ndarray"),
        (b"bytes", "builtins.bytes cannot be serialised"),
        (Mutable(), "Mutable is not frozen"),
        (Lora, "builtins.type cannot be serialised"),
        ({1: "a"}, "key 1 is int; expected str"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_a_refusal_names_the_key_path(refused: object, reason: str) -> None:
    with pytest.raises(FingerprintError) as error:
        fingerprint({"recipe": Recipe(Lora(r=refused))})
    assert str(error.value).startswith("identity.recipe.lora.r: ")
    assert reason in str(error.value)


def test_a_refusal_names_the_place_in_a_list() -> None:
    with pytest.raises(FingerprintError, match=r"^plan\.panel\[1\]\.seeds: "):
        canonical_json({"panel": [{}, {"seeds": {1, 2}}]}, name="plan")


@given(st.lists(st.text(st.characters(codec="utf-8")) | st.integers(), min_size=1))
def test_derive_seed_fits_64_bit_signed_samplers(parts: list[str | int]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    assert seed == derive_seed(*parts)


def test_derive_seed_is_pinned_and_independent_of_the_hash_seed() -> None:
    code = "from leakage_assets.store.fingerprint import derive_seed; print(derive_seed('sample', 'villain', 3))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("0", "1")
    }
    assert printed == {"7331665177830555511"}


def test_derive_seed_tells_parts_and_their_order_apart() -> None:
    seeds = {
        derive_seed("a", "b"),
        derive_seed("b", "a"),
        derive_seed("ab"),
        derive_seed("a", 1),
        derive_seed("a", "1"),
    }
    assert len(seeds) == 5


@pytest.mark.parametrize("parts", [(), (1.0,), ("a", None), (True,), (np.int64(3),)])
def test_derive_seed_refuses_what_is_not_a_part(parts: tuple[Any, ...]) -> None:
    with pytest.raises(FingerprintError, match="seed"):
        derive_seed(*parts)
