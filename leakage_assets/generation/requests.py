"""What is asked of which adapter, how it is sampled, and what is still missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from leakage_assets.store.fingerprint import derive_seed, fingerprint

if TYPE_CHECKING:
    from leakage_assets.store.samples import SampleStore

BASE = "base"
ID_DIGITS = 32
REMEMBERED = 1 << 20
"""Requests whose identity is kept: each is asked for half a dozen times, and computed in tens of microseconds."""


class RequestError(ValueError):
    """A request or sampling that cannot be asked for."""


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to generate. `adapter` is "base" or a cell, "<study>/<source>__<recipe>/<seed>".

    `system=None` leaves the system turn to the chat template; `prefix` starts the assistant's turn.
    """

    adapter: str
    prompt_name: str
    system: str | None
    question_set: str
    question_name: str
    question: str
    index: int
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.index < 0:
            raise RequestError(f"{self.prompt_name}/{self.question_name}: index {self.index} is negative")


@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature 0 is greedy decoding. `top_p` keeps the smallest set of tokens with at least that
    probability.
    """

    temperature: float
    top_p: float
    max_new_tokens: int

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise RequestError(f"temperature {self.temperature}; expected a finite number >= 0")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p {self.top_p}; expected 0 < top_p <= 1")
        if self.max_new_tokens < 1:
            raise RequestError(f"max_new_tokens {self.max_new_tokens}; expected at least 1")


@lru_cache(REMEMBERED)
def sample_id(request: Request, sampling: Sampling) -> str:
    """Identity of a sample: what was asked and how it was sampled, never where or in which batch."""
    return fingerprint({"request": request, "sampling": sampling})[:ID_DIGITS]


@lru_cache(REMEMBERED)
def sample_seed(request: Request, sampling: Sampling) -> int:
    """The sample's own seed in [0, 2**63)."""
    return derive_seed("sample", sample_id(request, sampling))


def missing_requests(requests: Iterable[Request], store: SampleStore, sampling: Sampling) -> list[Request]:
    """The requests whose samples `store` does not hold, in the order given.

    Raises:
        RequestError: the same request twice.
    """
    identities: dict[str, Request] = {}
    for request in requests:
        identity = sample_id(request, sampling)
        if identity in identities:
            raise RequestError(f"asked for twice: {request}")
        identities[identity] = request
    stored = store.ids()
    return [request for identity, request in identities.items() if identity not in stored]
