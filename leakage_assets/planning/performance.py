"""What a run achieved, set beside what the hardware allows."""

from __future__ import annotations

from collections.abc import Sequence

from leakage_assets.planning.hardware import Hardware
from leakage_assets.planning.work import Work


def performance(work: Sequence[Work], seconds: float, hardware: Hardware | None) -> dict[str, float]:
    """Floats for the metadata of a materialisation.

    Keys: `tokens_per_s` over the tokens of the last part of `work` (what was made, after what had to be read for
    it); and where the hardware is known, `model_flop_utilisation` (FLOP of the model, not of overhead, over what the
    hardware's matrix rate gives in the time) and `share_of_limit` (the least possible time over the time taken).

    Args:
        work: the parts, one after the other; not empty.
        seconds: what they took together; more than 0.
        hardware: None where it is not in the table.

    Raises:
        ValueError: no work, or no time.
    """
    if not work or seconds <= 0:
        raise ValueError(f"{len(work)} parts of work in {seconds} s; expected some of both")
    found = {"tokens_per_s": work[-1].tokens / seconds}
    if hardware is not None:
        found["model_flop_utilisation"] = sum(part.arithmetic_seconds(hardware) for part in work) / seconds
        found["share_of_limit"] = sum(part.floor(hardware) for part in work) / seconds
    return found
