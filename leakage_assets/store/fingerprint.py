"""What makes a result what it is, as canonical JSON, its sha256, and the seeds derived from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Hashable, Mapping
from enum import Enum
from functools import cache
from pathlib import PurePath
from typing import Any, cast


class FingerprintError(ValueError):
    """A value has no canonical JSON form; the message names its key path."""


def canonical_json(value: object, *, name: str = "identity") -> str:
    """The one JSON text of `value`: keys sorted, no spaces, floats by repr, non-ASCII text unescaped.

    Accepts None, bool, int, finite float, str, list and tuple (both as arrays), mappings with str keys,
    frozen dataclasses (as objects of their fields) and enums (as their values). `1` and `1.0` differ.

    Args:
        value: what to write.
        name: what the key paths in errors start with.

    Raises:
        FingerprintError: for anything else (sets, paths, NaN, numpy scalars, ...), naming the key path.
    """
    return json.dumps(plain(value, name), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def fingerprint(value: object, *, name: str = "identity") -> str:
    """sha256 (64 hex digits) of the canonical JSON of `value`; raises what `canonical_json` raises."""
    return hashlib.sha256(canonical_json(value, name=name).encode()).hexdigest()


def derive_seed(*parts: str | int) -> int:
    """A seed in [0, 2**63) that depends on `parts` and their order alone, never on when it is asked for.

    Raises:
        FingerprintError: without parts, or for a part that is neither str nor int.
    """
    if not parts:
        raise FingerprintError("seed: no parts: a seed shared by everything is derived from nothing")
    for position, part in enumerate(parts):
        if type(part) not in (str, int):
            raise FingerprintError(f"seed[{position}]: {type(part).__name__} {part!r}; expected str or int")
    return int(fingerprint(parts, name="seed")[:16], 16) >> 1


def plain(value: object, name: str) -> Any:
    """`value` as the None, bool, int, float, str, list and dict that its canonical JSON parses to.

    Raises:
        FingerprintError: where `value`, called `name`, has no canonical form.
    """
    # Exact types: numpy.float64 is a float and numpy.str_ a str, and both would pass for what they are not.
    kind = type(value)
    if kind is str:
        return _text(cast("str", value), name)
    if value is None or kind is int or kind is bool:
        return value
    if kind is float:
        return _finite(cast("float", value), name)
    if kind is list or kind is tuple:
        items = cast("list[object]", value)
        return [plain(item, f"{name}[{position}]") for position, item in enumerate(items)]
    if isinstance(value, Enum):
        return plain(value.value, name)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = _fields(value, name)
    if isinstance(value, Mapping):
        return {_key(key, name): plain(item, f"{name}.{key}") for key, item in value.items()}
    raise FingerprintError(f"{name}: {_refusal(value)}")


def _text(value: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise FingerprintError(f"{name}: {value!r} is not valid Unicode text: {error.reason}") from None
    return value


def _finite(value: float, name: str) -> float:
    if not math.isfinite(value):
        raise FingerprintError(f"{name}: {value} is not JSON; use None for an absent number")
    return value


def _key(key: object, name: str) -> str:
    if type(key) is not str:
        raise FingerprintError(f"{name}: key {key!r} is {type(key).__name__}; expected str")
    return _text(key, name)


def _fields(value: Any, name: str) -> dict[str, object]:
    kind = type(value).__name__
    if not value.__dataclass_params__.frozen:
        raise FingerprintError(f"{name}: dataclass {kind} is not frozen; what names a result must not change")
    return {field: getattr(value, field) for field in _field_names(cast("Hashable", type(value)))}


@cache
def _field_names(kind: Hashable) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(cast("Any", kind)))


def _refusal(value: object) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, PurePath):
        return f"{kind} {str(value)!r}: a path is where, not what; put the digest of its content here instead"
    if isinstance(value, (set, frozenset)):
        return f"{kind}: a set has no order; use a sorted list"
    if type(value).__module__ == "numpy":
        return f"{kind} {value!r}: convert it with .item() or .tolist()"
    accepted = "None, bool, int, float, str, list, tuple, dict, a frozen dataclass or an enum"
    return f"{kind} cannot be serialised; expected {accepted}"
