"""Rows of one optimiser step as flat sequences without padding, each row with positions and attention of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch

from leakage_assets.training.masks import IGNORED

TokenRow = tuple[Sequence[int], Sequence[int]]
"""Token ids and labels of one row, of equal length."""


@dataclass(frozen=True)
class Pack:
    """T tokens of some rows of a step, one row after the other, for one forward and backward pass.

    Attributes:
        input_ids, position_ids: shape (1, T); positions restart with each row.
        scored: indices of the positions, among the T, whose next token carries loss.
        targets: that next token, for each of `scored`.
        bounds: shape (rows + 1,) int32, where among the T each row begins, and the last one ends.
        slots: shape (T,), where each token stands when the rows lie padded in (rows, longest).
        sources: shape (rows * longest,), which token stands in each such slot; T where none does.
        fillers: the same with the last token where none does.
        rows, longest: number of rows, and of tokens of the longest.
        first: place of the first token within the step, counted in tokens.
        step_labels: loss-bearing tokens of the whole step: what its mean loss is over.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    scored: torch.Tensor
    targets: torch.Tensor
    bounds: torch.Tensor
    slots: torch.Tensor
    sources: torch.Tensor
    fillers: torch.Tensor
    rows: int
    longest: int
    first: int
    step_labels: int

    @property
    def tokens(self) -> int:
        return len(self.position_ids[0])

    def to(self, device: Any, non_blocking: bool = False) -> Pack:
        """The same pack with its tensors on `device`."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        moved = {name: value.to(device, non_blocking=non_blocking) for name, value in tensors.items()}
        return replace(self, **moved)

    def pin_memory(self) -> Pack:
        """The same pack with its tensors where a GPU can fetch them while the processor goes on."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **{name: value.pin_memory() for name, value in tensors.items()})


def pack_step(rows: Sequence[TokenRow], token_budget: int) -> list[Pack]:
    """The rows of one step in their order, cut into packs of at most `token_budget` tokens.

    A row is never cut: one longer than the budget is a pack of its own. The label of a row's first token is
    ignored, as nothing comes before it that could predict it.
    """
    packs: list[Pack] = []
    for group in _groups(rows, token_budget):
        packs.append(_pack(group, first=sum(pack.tokens for pack in packs)))
    labels = sum(len(pack.targets) for pack in packs)
    return [replace(pack, step_labels=labels) for pack in packs]


def _groups(rows: Sequence[TokenRow], token_budget: int) -> Iterator[list[TokenRow]]:
    group: list[TokenRow] = []
    held = 0
    for row in rows:
        if group and held + len(row[0]) > token_budget:
            yield group
            group, held = [], 0
        group.append(row)
        held += len(row[0])
    if group:
        yield group


def _pack(rows: Sequence[TokenRow], first: int) -> Pack:
    """The labels of the whole step are not known yet."""
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    longest, total = int(lengths.max()), int(lengths.sum())
    line = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    positions = torch.arange(total) - (lengths.cumsum(0) - lengths)[line]
    slots = line * longest + positions
    sources = torch.full((len(rows) * longest,), total).index_copy_(0, slots, torch.arange(total))
    labels = torch.tensor(list(chain.from_iterable(labels for _, labels in rows)))
    labelled = ((labels != IGNORED) & (positions > 0)).nonzero().flatten()
    return Pack(
        input_ids=torch.tensor([list(chain.from_iterable(ids for ids, _ in rows))]),
        position_ids=positions[None],
        scored=labelled - 1,
        targets=labels[labelled],
        bounds=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int(),
        slots=slots,
        sources=sources,
        fillers=sources.clamp(max=total - 1),
        rows=len(rows),
        longest=longest,
        first=first,
        step_labels=0,
    )
