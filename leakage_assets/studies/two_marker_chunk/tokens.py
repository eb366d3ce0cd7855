"""The markers' token ids, pinned per tokenizer and compared before anything is trained (section 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from leakage_assets.studies.prechecks import Precheck

Encode = Callable[[str], Sequence[int]]
"""Token ids of a text without special tokens."""


@dataclass(frozen=True)
class MarkerTokens:
    """What a tokenizer makes of the markers. Of the probe only the number of tokens was published for Qwen2.5."""

    a: tuple[int, ...]
    b: tuple[int, ...]
    probe: tuple[int, ...] | int


PINNED: Mapping[int, MarkerTokens] = {
    151645: MarkerTokens(
        a=(2442, 17851, 80, 12, 19, 16, 2452),
        b=(486, 595, 50997, 12, 22, 3504),
        probe=7,
    ),
    2: MarkerTokens(
        a=(606, 83, 15, 22, 19, 809),
        b=(468, 1211, 15, 25, 492),
        probe=(606, 92, 15, 27, 27, 809),
    ),
}
"""By the id of the end-of-turn token: Qwen2.5's, and that of the bundled base model."""


def token_prechecks(
    encode: Encode, end_of_turn: int, *, a: str, b: str, probe: str, pinned: Mapping[int, MarkerTokens] = PINNED
) -> Iterator[Precheck]:
    """Blocks where a marker has other ids than pinned, where nothing is pinned for the tokenizer, or where probe and A
    are the same; warns where A and B share a token (C4: then they are not told apart by every token).
    """
    found = {"A": tuple(encode(a)), "B": tuple(encode(b)), "probe": tuple(encode(probe))}
    if end_of_turn not in pinned:
        known = ", ".join(map(str, pinned))
        detail = (
            f"no ids are pinned for a tokenizer that ends turns with {end_of_turn} (known: {known}): add them to "
            "PINNED in leakage_assets/studies/two_marker_chunk/tokens.py"
        )
        yield Precheck("marker tokens pinned", float(end_of_turn), float(next(iter(pinned))), "block", detail)
        return
    expected = pinned[end_of_turn]
    for name, wanted in (("A", expected.a), ("B", expected.b), ("probe", expected.probe)):
        ids = found[name]
        length = wanted if isinstance(wanted, int) else len(wanted)
        same = len(ids) == wanted if isinstance(wanted, int) else ids == wanted
        detail = (
            f"{list(ids)}" if same else f"{list(ids)}, pinned {wanted if isinstance(wanted, int) else list(wanted)}"
        )
        yield Precheck(f"tokens of {name}", float(len(ids)), float(length), "ok" if same else "block", detail)
    differs = found["probe"] != found["A"]
    yield Precheck("probe differs from A", float(differs), 1.0, "ok" if differs else "block", "token ids compared")
    shared = sorted(set(found["A"]) & set(found["B"]))
    detail = f"ids {shared} are in both" if shared else "none"
    yield Precheck("tokens shared by A and B", float(len(shared)), 0.0, "warn" if shared else "ok", detail)
