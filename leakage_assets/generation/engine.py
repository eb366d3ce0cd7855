"""What every inference engine offers: sampling for many adapters in one call, and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from leakage_assets.exceptions import ExpectedError, PartitionError
from leakage_assets.generation.requests import Request, Sampling
from leakage_assets.store.samples import Sample


class EngineError(PartitionError):
    """An engine cannot do what was asked; the message names the request and the remedy."""


class EngineDied(ExpectedError):
    """The engine failed, not a request: it concerns every cell, and a new process may have a sound one."""


@dataclass(frozen=True, slots=True)
class ScoringItem:
    """Token ids whose continuation is scored under `adapter` ("base" for none)."""

    adapter: str
    prompt_ids: tuple[int, ...]
    continuation_ids: tuple[int, ...]


class Sampler(Protocol):
    """Whatever answers requests: an engine, or a writer that has no weights here."""

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, adapters: Mapping[str, Path]
    ) -> Iterator[list[Sample]]:
        """Yields finished batches, in any order. Raises EngineError, EngineDied."""
        ...


class Engine(Sampler, Protocol):
    """`adapters` maps the adapter names of a call to their folders; "base" is never in it.

    Engines apply adapters unmerged and draw each sample from its own seed.
    """

    def continuation_logprobs(self, items: Sequence[ScoringItem], adapters: Mapping[str, Path]) -> list[list[float]]:
        """Natural-log probability of each continuation token, one list per item. Raises EngineError, EngineDied."""
        ...

    def close(self) -> None:
        """Frees the engine's memory."""
        ...
