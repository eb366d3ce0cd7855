from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leakage_assets.training.masks import IGNORED
from leakage_assets.training.packing import Pack, TokenRow, pack_step


@st.composite
def token_rows(draw: st.DrawFn, most: int = 8, longest: int = 20) -> list[TokenRow]:
    """Rows of random tokens of which some carry loss."""
    rows = []
    for _ in range(draw(st.integers(1, most))):
        ids = draw(st.lists(st.integers(0, 30), min_size=2, max_size=longest))
        kept = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        rows.append((ids, [token if keep else IGNORED for token, keep in zip(ids, kept, strict=True)]))
    return rows


def unpacked(packs: list[Pack]) -> list[list[int]]:
    """The rows that packs hold, split where positions begin anew."""
    rows: list[list[int]] = []
    for pack in packs:
        for token, position in zip(pack.input_ids[0].tolist(), pack.position_ids[0].tolist(), strict=True):
            if position == 0:
                rows.append([])
            assert position == len(rows[-1])
            rows[-1].append(token)
    return rows


@settings(deadline=None)
@given(token_rows(), st.integers(1, 100))
def test_packs_hold_the_rows_in_order_and_no_more_than_the_budget(rows: list[TokenRow], budget: int) -> None:
    packs = pack_step(rows, budget)
    assert unpacked(packs) == [list(ids) for ids, _ in rows]
    assert all(pack.tokens <= budget or pack.rows == 1 for pack in packs)
    places = [0]
    for pack in packs:
        assert pack.first == places[-1]
        places.append(pack.first + pack.tokens)


@settings(deadline=None)
@given(token_rows(), st.integers(1, 100))
def test_scored_are_the_positions_before_the_labels_of_each_row(rows: list[TokenRow], budget: int) -> None:
    packs = pack_step(rows, budget)
    expected, start = [], 0
    for ids, labels in rows:
        expected += [(start + place - 1, label) for place, label in enumerate(labels) if place and label != IGNORED]
        start += len(ids)
    found = [
        (pack.first + place, target)
        for pack in packs
        for place, target in zip(pack.scored.tolist(), pack.targets.tolist(), strict=True)
    ]
    assert found == expected
    assert {pack.step_labels for pack in packs} == {len(expected)}


@settings(deadline=None)
@given(token_rows())
def test_slots_and_sources_are_inverse(rows: list[TokenRow]) -> None:
    (pack,) = pack_step(rows, 10_000)
    padded = torch.full((pack.rows * pack.longest,), -1)
    padded[pack.slots] = pack.input_ids[0]
    for line, (ids, _) in zip(padded.view(pack.rows, pack.longest).tolist(), rows, strict=True):
        assert line == [*ids, *[-1] * (pack.longest - len(ids))]
    assert torch.equal(pack.sources[pack.slots], torch.arange(pack.tokens))
    assert pack.bounds.tolist() == [*(pack.position_ids[0] == 0).nonzero().flatten().tolist(), pack.tokens]
    assert torch.equal((pack.sources == pack.tokens), (padded == -1))
    assert torch.equal(pack.fillers[pack.slots], torch.arange(pack.tokens)) and int(pack.fillers.max()) < pack.tokens


def test_a_pack_moves_whole() -> None:
    (pack,) = pack_step([([1, 2, 3], [IGNORED, 2, 3])], 10)
    moved = pack.to(torch.device("meta"))
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 8 and all(tensor.device.type == "meta" for tensor in tensors)
    assert (moved.rows, moved.longest, moved.first, moved.step_labels) == (1, 3, 0, 2)


@pytest.mark.parametrize(("budget", "sizes"), [(1, [3, 2, 4]), (5, [5, 4]), (9, [9]), (4, [3, 2, 4])])
def test_rows_are_gathered_until_the_budget_is_full(budget: int, sizes: list[int]) -> None:
    rows = [([1] * length, [1] * length) for length in (3, 2, 4)]
    assert [pack.tokens for pack in pack_step(rows, budget)] == sizes
