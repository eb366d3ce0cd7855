"""How large a vLLM engine must be for a call: lengths, adapter ranks and slots, memory. Needs no vLLM."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leakage_assets.generation.engine import EngineError
from leakage_assets.generation.requests import BASE
from leakage_assets.shapes import ModelShape

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values of max_lora_rank that vLLM accepts (vllm.config.lora.MaxLoRARanks in 0.25.1 and 0.32.0)."""

LENGTH_STEP = 1024
"""Engines are started for a multiple of this many tokens: a longer prompt must not cost a restart, and vLLM compiles
anew for each length and number of slots, so that the engine of the samples would not find what that of the proof left.
"""

SLOTS = (4, 8, 16)
"""For the same reasons engines are started for so many adapters at once, or as many as are needed above."""

STORED_STEP = 32
"""Engines may hold a multiple of so many adapters in host memory, which costs nothing before they are there: one that
was started to prove the first adapter of a run serves all of them.
"""

BLOCK = 16
"""Tokens of a block of the KV cache on a GPU."""

GRAPHS = 2 << 30
"""Bytes put aside for CUDA graphs and what the driver and the allocator keep."""

LOGIT_COPIES = 4
"""Copies of a (sequences, vocabulary) float32 tensor alive while a step samples, and while vLLM profiles its memory."""

# What vLLM reads of adapter_config.json and passes over in silence in one of the two versions, with the values that
# change nothing.
UNSERVABLE: Mapping[str, tuple[Any, ...]] = {
    "alora_invocation_tokens": (None,),
    "alpha_pattern": (None, {}),
    "bias": (None, "none"),
    "layer_replication": (None,),
    "lora_bias": (None, False),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "use_dora": (None, False),
    "use_qalora": (None, False),
}


@dataclass(frozen=True)
class VllmSettings:
    """How a vLLM engine runs. What is said does not depend on it beyond the float noise of other batches.

    Attributes:
        max_num_seqs: sequences generated at the same time. From about 1,000 on a 7B model is bound by arithmetic,
            not by reading its weights.
        max_num_batched_tokens: tokens of one step, prompts and new ones together.
        max_loras: most adapters kept on the device at once; each costs memory and the kernels a little time.
        memory_share: the most an engine takes of the device memory that is free when it starts.
        max_restarts: how often a dead engine is started again within one call.
    """

    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 8192
    max_loras: int = 16
    memory_share: float = 0.85
    max_restarts: int = 2


@dataclass(frozen=True)
class Capacity:
    """What an engine is started for; it serves every call that needs no more.

    Attributes:
        length: tokens of the longest sequence, prompt and completion together.
        rank: max_lora_rank, one of RANKS; 0 without adapters.
        slots: adapters on the device at once.
        stored: adapters in host memory; none of a call is read from disk twice.
    """

    length: int
    rank: int = 0
    slots: int = 0
    stored: int = 0

    def covers(self, other: Capacity) -> bool:
        """Whether an engine of this capacity serves a call that needs `other`."""
        return self == self.union(other)

    def union(self, other: Capacity) -> Capacity:
        """The smallest capacity that covers both."""
        return Capacity(
            max(self.length, other.length),
            max(self.rank, other.rank),
            max(self.slots, other.slots),
            max(self.stored, other.stored),
        )


def padded_length(tokens: int, limit: int) -> int:
    """`tokens` rounded up to LENGTH_STEP, at most the model's own `limit`."""
    return min(-(-tokens // LENGTH_STEP) * LENGTH_STEP, limit)


def padded_slots(adapters: int, limit: int) -> int:
    """`adapters` rounded up to one of SLOTS, at most `limit`; 0 without any."""
    if adapters == 0:
        return 0
    return min(next((slots for slots in SLOTS if slots >= adapters), adapters), limit)


def padded_stored(adapters: int) -> int:
    """`adapters` rounded up to STORED_STEP; 0 without any."""
    return -(-adapters // STORED_STEP) * STORED_STEP


def servable_rank(ranks: Iterable[int]) -> int:
    """The smallest max_lora_rank that vLLM accepts and that holds every adapter; 0 without any.

    An adapter's own rank and scale stay what they are: the rows up to max_lora_rank are zero.

    Raises:
        EngineError: a rank above the largest one.
    """
    largest = max(ranks, default=0)
    if largest == 0:
        return 0
    for rank in RANKS:
        if rank >= largest:
            return rank
    raise EngineError(f"an adapter of rank {largest}: vLLM serves ranks up to {RANKS[-1]}; use a smaller rank")


def adapters_at_once(stream: Sequence[str], sequences: int) -> int:
    """Most different adapters among any `sequences` consecutive requests of a stream of adapter names."""
    present: Counter[str] = Counter()
    most = 0
    for place, name in enumerate(stream):
        present[name] += name != BASE
        if place >= sequences:
            leaving = stream[place - sequences]
            present[leaving] -= leaving != BASE
            if not present[leaving]:
                del present[leaving]
        most = max(most, len(present) - (BASE in present))
    return most


def slots_for(stream: Sequence[str], settings: VllmSettings) -> int:
    """Slots of an engine that is asked a stream of adapter names in this order."""
    return padded_slots(adapters_at_once(stream, settings.max_num_seqs), settings.max_loras)


def admitted_together(sequences: int) -> int:
    """How many new sequences join an engine of `sequences` at a time.

    One by one they would put a prompt into every step: on one H200 a step of 1,024 sequences of a 7B model then takes
    40 ms instead of 37 (products of 1,088 rows use the device worse than those of 1,024); with a sixteenth at a time a
    thirty-second of the places is empty on average.
    """
    return max(1, sequences // 16)


def graph_sizes(sequences: int) -> list[int]:
    """Tokens of the steps that vLLM captures as CUDA graphs; a step runs as the next larger one, or without.

    Up to `sequences` by factors and then eighths of it, as the end of a stream goes through them, and finely above,
    where a full engine is when new prompts come in beside it. vLLM's own stop at 512.
    """
    small = [size for size in (1, 2, 4, 8, 16, 32, 64) if size < sequences]
    eighths = [sequences * share // 8 for share in range(1, 9)]
    above = [sequences + sequences * share // 32 for share in (1, 2, 4, 8, 16)]
    return sorted({*small, *(max(size, 1) for size in eighths), *above})


def unservable(config: Mapping[str, Any]) -> list[str]:
    """Names of the PEFT features an adapter uses that vLLM does not apply."""
    return sorted(name for name, neutral in UNSERVABLE.items() if config.get(name) not in neutral)


@dataclass(frozen=True)
class Footprint:
    """Bytes an engine needs; `kv` for every sequence at its full length, more than that it cannot use."""

    weights: int
    adapters: int
    kv: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.adapters + self.kv + self.activations


def footprint(shape: ModelShape, capacity: Capacity, settings: VllmSettings, element: int) -> Footprint:
    """Memory of an engine at `element` bytes a number.

    Adapters: vLLM keeps room for A (rank, in) and B (out, rank) of every linear layer of the blocks in each slot.
    KV cache: each sequence at its full length, in whole blocks.
    Activations: a step of max_num_batched_tokens through the widest block, four (sequences, vocabulary) float32
    tensors of logits, and CUDA graphs.
    """
    tokens = settings.max_num_seqs * -(-capacity.length // BLOCK) * BLOCK
    width = 4 * shape.hidden + 3 * shape.intermediate
    adapter = shape.lora_parameters(capacity.rank, tuple(shape.projections()))
    return Footprint(
        weights=shape.parameters * element,
        adapters=adapter * capacity.slots * element,
        kv=tokens * shape.kv_bytes(element),
        activations=settings.max_num_batched_tokens * width * element
        + LOGIT_COPIES * settings.max_num_seqs * shape.vocabulary * 4
        + GRAPHS,
    )


def device_share(needed: Footprint, free: int, total: int, settings: VllmSettings) -> float:
    """vLLM's gpu_memory_utilization: the share of the device's `total` bytes that the engine may take.

    vLLM counts what it takes itself, from what is free when it starts; what others hold is not part of it. It gets
    what it needs and no more than `memory_share` of what is free, so that a training run in the same process keeps
    the rest.
    """
    return min(needed.total, int(settings.memory_share * free)) / total
