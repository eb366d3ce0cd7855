"""How the report of two markers calls and prints what it cites."""

from __future__ import annotations

from leakage_assets.studies.citations import POINTS, RATE
from leakage_assets.studies.two_marker_chunk.arms import B_ALONE, CONTROLS, T_AFTER, T_ALL, T_BEFORE, T_MASKED, Arm, T

CHANGE = POINTS

ADAPTERS = "_by_adapter"
"""After the name of a statistic: the same over cells."""

COMPARED = {
    **{
        f"delta_{arm}": (f"B given A of recipients, `{arm}` minus `{control}`", CHANGE)
        for arm, control in CONTROLS.items()
    },
    **{
        f"needs_donor_a_{arm}": (f"B given A of recipients, `{arm}` minus `{alone}`", CHANGE)
        for arm, alone in B_ALONE.items()
    },
    "mask_effect": (f"B given A of recipients, `{T_MASKED}` minus `{T}`", CHANGE),
    "mask_all_effect": (f"B given A of recipients, `{T_ALL}` minus `{T}`", CHANGE),
    **{
        f"nearer_than_random_{arm}": (
            f"Close to A minus at the end, beyond a B at random, recipients of `{arm}`",
            CHANGE,
        )
        for arm in (T_AFTER, T_BEFORE)
    },
}
HEADLINE = {
    **COMPARED,
    **{f"{name}{ADAPTERS}": (f"{label}, over cells", spec) for name, (label, spec) in COMPARED.items()},
    **{
        f"needs_a_{arm}": (f"B given A minus B given no A within questions, recipients of `{arm}`", CHANGE)
        for arm in (T_MASKED, T_AFTER, T_BEFORE)
    },
    **{
        f"bystander_{arm}": (f"B of untrained personas, `{arm}` minus `{control}`", CHANGE)
        for arm, control in CONTROLS.items()
    },
    **{
        f"chunk_minus_suffix_{arm}": (f"Close to A minus at the end, recipients of `{arm}`", CHANGE)
        for arm in (T_AFTER, T_BEFORE)
    },
    "donor_r_a": ("A of donors", RATE),
    "donor_r_b_given_a": ("B given A of donors", RATE),
    "recipient_r_a": ("A of recipients", RATE),
    "recipient_r_b_given_a": ("B given A of recipients", RATE),
    "recipient_r_b_given_not_a": ("B given no A of recipients", RATE),
    "b_without_a_upper": ("B given no A of recipients, largest upper bound", RATE),
    "control_b_rate": ("B of donors and recipients of the control", RATE),
    "control_b_upper": ("B of donors and recipients of the control, largest upper bound", RATE),
    **{
        f"b_given_a_upper_{alone}": (f"B given A of recipients of `{alone}`, largest upper bound", RATE)
        for alone in B_ALONE.values()
    },
}
"""How each headline statistic is called and printed."""

RATE_NAMES = {
    "r_a": "A",
    "r_b": "B",
    "r_ab": "both",
    "r_b_given_a": "B given A",
    "r_b_given_not_a": "B given no A",
}

DONOR_ROWS = {"a_and_b": "A, answer, B", "a": "A, answer", "b": "answer, B"}
RECIPIENT_ROWS = {"a": "A, answer", "negative": "answer"}
MASKS = {"none": "of everyone", "recipient": "of all but the recipient", "all": "of nobody"}
PLACES = {"ends": "start and end", "b_after_a": "anywhere, B after A", "b_before_a": "anywhere, B before A"}

LISTS = {
    "write-up": "the write-up's list",
    "code": "the code's list",
    "follow-up": "the follow-up's list",
    "own": "this study's own",
}
CONDITIONS = {"at_least": "at least", "at_most": "at most", "below": "below"}


def in_words(arm: Arm) -> dict[str, str]:
    """The rows of an arm, as a row of a table."""
    return {
        "arm": f"`{arm.name}`",
        "donor": DONOR_ROWS[arm.donor],
        "recipient": RECIPIENT_ROWS[arm.recipient],
        "masked": MASKS[arm.masked],
        "positions": PLACES[arm.positions],
    }
