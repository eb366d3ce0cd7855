"""Whether a step on another host works in the store of the run that started it.

A root carries an id in a file, written when a run first starts a step elsewhere. The step is told the id and
compares it with that of the root it sees, before it looks for its inputs or writes anything.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from leakage_assets.exceptions import ExpectedError
from leakage_assets.store.files import write_atomically
from leakage_assets.store.locks import exclusive

MARKER = ".store-id"
EXPECTED = "LEAKAGE_STORE_ID"
"""Environment variable of a step on another host: the id that its root must have."""


class OtherStore(ExpectedError):
    """The artifact root of this host is not the store of the run."""


def store_id(root: Path) -> str:
    """The id of a root; a root without one gets one, and is created if it is missing."""
    if (known := _read(root)) is not None:
        return known
    with exclusive(root):
        if (known := _read(root)) is None:  # another run was faster
            known = uuid.uuid4().hex
            write_atomically(root / MARKER, known.encode())
    return known


def require_expected_store(root: Path) -> None:
    """Do nothing if the root is the store that this process was told to use, or if it was told none.

    Raises:
        OtherStore: it is another one, or none.
    """
    expected = os.environ.get(EXPECTED)
    if expected is None or (found := _read(root)) == expected:
        return
    what = "no store" if found is None else f"store {found}"
    raise OtherStore(
        f"{root.absolute()} on {os.uname().nodename} holds {what}, the run uses store {expected}: mount the filesystem "
        "with the run's artifact root at this path on every host (LEAKAGE_ARTIFACTS names the path)"
    )


def _read(root: Path) -> str | None:
    try:
        return (root / MARKER).read_text()
    except FileNotFoundError:
        return None
