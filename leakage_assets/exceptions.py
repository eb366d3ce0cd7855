"""The two kinds of error that are told to the user as a sentence: each message names the place and the remedy."""

from __future__ import annotations


class ExpectedError(Exception):
    """Something the user can mend. The command line prints it without a traceback."""


class PartitionError(ExpectedError):
    """Concerns one partition of a run: the others go on. Any other error ends the run at once."""
