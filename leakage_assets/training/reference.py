"""Log-probabilities written down when training ends: what a correctly applied adapter must reproduce."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leakage_assets.generation.adapters import AdapterError
from leakage_assets.generation.decoding import score
from leakage_assets.training.masks import MaskedRow

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

FILE = "reference_logprobs.json"
PROBES_PER_ROLE = 4


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt and a continuation whose tokens are scored."""

    prompt_ids: tuple[int, ...]
    continuation_ids: tuple[int, ...]


@dataclass(frozen=True)
class ReferenceLogprobs:
    """Natural-log probabilities of each probe's continuation tokens, by the PEFT model that was just trained.

    `adapter_digest` binds them to one weights file; `steps` and `learning_rate` say whether training moved
    it.
    """

    adapter_digest: str
    steps: int
    learning_rate: float
    probes: tuple[Probe, ...]
    with_adapter: tuple[tuple[float, ...], ...]
    without_adapter: tuple[tuple[float, ...], ...]

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> ReferenceLogprobs:
        """Raises AdapterError where the file is missing or not what `write` wrote."""
        try:
            content = json.loads((folder / FILE).read_text())
            return cls(
                content["adapter_digest"],
                content["steps"],
                content["learning_rate"],
                tuple(
                    Probe(tuple(probe["prompt_ids"]), tuple(probe["continuation_ids"])) for probe in content["probes"]
                ),
                tuple(tuple(row) for row in content["with_adapter"]),
                tuple(tuple(row) for row in content["without_adapter"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AdapterError(f"{folder / FILE}: missing or damaged ({error!r}); train the cell again") from error


def probes_of(rows: Sequence[MaskedRow]) -> tuple[Probe, ...]:
    """Up to four rows of each role, evenly spread: the marker in place, and its absence."""
    by_role: dict[str, list[MaskedRow]] = {}
    for row in rows:
        by_role.setdefault(row.row.role, []).append(row)
    chosen = [row for role in sorted(by_role) for row in _spread(by_role[role])]
    return tuple(Probe(row.input_ids[: row.prompt_length], row.input_ids[row.prompt_length :]) for row in chosen)


def score_probes(
    model: PreTrainedModel | PeftModel, probes: Sequence[Probe], padding: int
) -> tuple[tuple[float, ...], ...]:
    """Log-probs of the continuation of each probe, all in one batch: its noise is part of the proof's noise floor."""
    pairs = [(probe.prompt_ids, probe.continuation_ids) for probe in probes]
    return tuple(tuple(row) for row in score(model, pairs, padding))


def _spread(rows: Sequence[MaskedRow]) -> list[MaskedRow]:
    count = min(PROBES_PER_ROLE, len(rows))
    return [rows[place * len(rows) // count] for place in range(count)]
