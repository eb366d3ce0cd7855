"""How much of the hardware's limit each kind of work reaches: only from what was measured on that hardware."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from leakage_assets.planning import reference
from leakage_assets.planning.hardware import Hardware
from leakage_assets.planning.ledger import Ledger
from leakage_assets.planning.work import Work
from leakage_assets.training.memory import TrainingMode

Kind = Literal[
    "reading",
    "training",
    "training as published",
    "proof",
    "sampling base",
    "sampling one adapter",
    "sampling many adapters",
]


@dataclass(frozen=True)
class Efficiency:
    """`share` is the least possible time over the time taken; `source` says where it was measured."""

    share: float
    source: str


@dataclass(frozen=True)
class Measured:
    """Work of one kind that was done in some seconds, after all of it was loaded and started."""

    kind: Kind
    work: tuple[Work, ...]
    seconds: float


Efficiencies = Mapping[Kind, Efficiency]


def training_kind(mode: TrainingMode) -> Kind:
    """The modes of training do the same work, each at its own speed."""
    return "training" if mode == "packed" else "training as published"


def sampling_kind(adapters: int) -> Kind:
    """Engines sample the slower the more adapters share a batch: none, one and many are measured apart."""
    return "sampling base" if adapters == 0 else "sampling one adapter" if adapters == 1 else "sampling many adapters"


def ledger_efficiencies(ledger: Ledger, hardware: Hardware) -> dict[Kind, Efficiency]:
    """From the committed results on this hardware. A kind that none of them measured is left out.

    A rate is read against the benchmark's own job: the bound of that job over what its tokens took. The forecasts of
    whole jobs (`train_14_adapters_s` and the like) come from these rates and never from their own time.
    """
    found: dict[Kind, Efficiency] = {}
    for kind, figure, work in _RATES:
        if (measured := ledger.on(figure, hardware)) is not None:
            parts, (rate, result) = work(), measured
            floor = sum(part.floor(hardware) for part in parts)
            found[kind] = Efficiency(floor * rate / parts[-1].tokens, f"{figure} of result {result.name}")
    if (measured := ledger.on("adapter_proof_s", hardware)) is not None:
        seconds, result = measured
        floor = reference.proof(reference.SHAPE, reference.DTYPE, reference.ROW_TOKENS).floor(hardware)
        found["proof"] = Efficiency(floor / seconds, f"adapter_proof_s of result {result.name}")
    return found


_RATES: Sequence[tuple[Kind, str, Callable[[], tuple[Work, ...]]]] = (
    ("training", "train_tokens_per_s", lambda: (reference.training_207(),)),
    ("training as published", "train_tokens_per_s_as_published", lambda: (reference.training_207(),)),
    ("sampling base", "generate_base_tokens_per_s", lambda: reference.sampling_207(0)),
    ("sampling one adapter", "generate_one_adapter_tokens_per_s", lambda: reference.sampling_207(1)),
    ("sampling many adapters", "generate_14_adapters_tokens_per_s", reference.sampling_207),
    ("reading", "read_tokens_per_s", lambda: (reference.centroids_66(),)),
)


def measured_efficiencies(measured: Iterable[Measured], hardware: Hardware) -> dict[Kind, Efficiency]:
    """From finished work of a store: all of a kind together, so that long work counts more than short."""
    by_kind: dict[Kind, list[Measured]] = {}
    for piece in measured:
        by_kind.setdefault(piece.kind, []).append(piece)
    found: dict[Kind, Efficiency] = {}
    for kind, pieces in by_kind.items():
        floor = sum(part.floor(hardware) for piece in pieces for part in piece.work)
        seconds = sum(piece.seconds for piece in pieces)
        found[kind] = Efficiency(floor / seconds, f"{len(pieces)} earlier of this store, {seconds:,.0f} s")
    return found
