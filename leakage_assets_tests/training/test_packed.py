"""A packed model computes what stock PEFT computes of each row alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from torch.nn.functional import cross_entropy

from leakage_assets.models import BaseModel, shared_copy
from leakage_assets.training.masks import IGNORED
from leakage_assets.training.packed import ATTENTION, Moment, attend, pack_loss, packed
from leakage_assets.training.packing import Pack, TokenRow, pack_step
from leakage_assets.training.recipe import TrainingError
from leakage_assets_tests.fixtures_models import TARGETS
from leakage_assets_tests.training.test_packing import token_rows

if TYPE_CHECKING:
    from peft import PeftModel

WHOLE = 10_000
ROWS: list[TokenRow] = [
    ([5, 9, 2, 7, 1, 3], [IGNORED] * 3 + [7, 1, 3]),
    ([4, 4, 8, 6], [IGNORED, IGNORED, 8, 6]),
    ([11, 3, 12, 5, 9, 9, 2, 30, 1], [IGNORED] * 6 + [2, 30, 1]),
]


def adapted(base: BaseModel, dropout: float) -> PeftModel:
    """The base with a random adapter whose B is not zero, in training mode."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(
        shared_copy(base.model),
        LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=dropout, target_modules=list(TARGETS)),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.train()


@pytest.fixture(scope="module")
def plain(base: BaseModel) -> PeftModel:
    """Without dropout; no test may change it."""
    return adapted(base, 0.0)


@pytest.fixture(scope="module")
def dropping(base: BaseModel) -> PeftModel:
    """With dropout; no test may change it."""
    return adapted(base, 0.3)


def alone(model: PeftModel, row: TokenRow) -> torch.Tensor:
    """The row's summed loss by stock PEFT, without padding or packing."""
    ids, labels = (torch.tensor([column]) for column in row)
    logits = model(input_ids=ids).logits
    return cross_entropy(logits[0, :-1].float(), labels[0, 1:], reduction="sum", ignore_index=IGNORED)


def gradients(model: PeftModel, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def step(model: PeftModel, rows: list[TokenRow], budget: int, number: int = 0) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step, computed in passes of at most `budget` tokens."""
    moment = Moment(training=3, step=number)
    total, sums = 0.0, {}
    with packed(model, moment):
        for pack in pack_step(rows, budget):
            moment.first = pack.first
            loss = pack_loss(model, pack)
            for name, grad in gradients(model, loss).items():
                sums[name] = sums.get(name, 0) + grad
            total += float(loss.detach())
    return total, sums


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(
            found[name], grad, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@settings(max_examples=30, deadline=None)
@given(token_rows(most=5, longest=12))
def test_a_packed_row_has_the_loss_of_the_row_alone(plain: PeftModel, rows: list[TokenRow]) -> None:
    with torch.no_grad():
        expected = [float(alone(plain, row)) for row in rows]
        (pack,) = pack_step(rows, WHOLE)
        with packed(plain, Moment(0)):
            logits = plain(input_ids=pack.input_ids, position_ids=pack.position_ids, pack=pack).logits[0]
    start = 0
    for (ids, labels), loss in zip(rows, expected, strict=True):
        own = logits[start : start + len(ids) - 1]
        found = cross_entropy(own, torch.tensor(labels[1:]), reduction="sum", ignore_index=IGNORED)
        assert float(found) == pytest.approx(loss, rel=1e-5, abs=1e-5)
        start += len(ids)


def test_a_step_is_the_mean_over_its_labels_with_the_gradients_of_peft(plain: PeftModel) -> None:
    labels = sum(label != IGNORED for _, row in ROWS for label in row)
    expected = sum(alone(plain, row) for row in ROWS) / labels
    assert isinstance(expected, torch.Tensor)
    for budget in (WHOLE, 12, 1):
        loss, found = step(plain, ROWS, budget)
        assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
        assert_same(found, gradients(plain, sum(alone(plain, row) for row in ROWS) / labels))


def test_no_row_attends_to_another(plain: PeftModel) -> None:
    def logits(first: list[int]) -> torch.Tensor:
        (pack,) = pack_step([(first, first), *ROWS], WHOLE)
        with packed(plain, Moment(0)), torch.no_grad():
            out: torch.Tensor = plain(input_ids=pack.input_ids, position_ids=pack.position_ids, pack=pack).logits[0]
        return out

    one, other = logits([3, 1, 4, 1, 5]), logits([9, 2, 6, 5, 3])
    assert torch.equal(one[5:], other[5:])
    assert not torch.equal(one[:5], other[:5])
    reordered = pack_step([ROWS[1], ROWS[0]], WHOLE)[0]
    with packed(plain, Moment(0)), torch.no_grad():
        swapped = plain(input_ids=reordered.input_ids, position_ids=reordered.position_ids, pack=reordered).logits[0]
    torch.testing.assert_close(swapped[4:10], one[5:11])


def test_dropout_is_that_of_the_step_however_it_is_cut(dropping: PeftModel) -> None:
    loss, expected = step(dropping, ROWS, WHOLE)
    for budget in (12, 1):
        cut, found = step(dropping, ROWS, budget)
        assert cut == pytest.approx(loss, rel=1e-5)
        assert_same(found, expected)
    assert step(dropping, ROWS, WHOLE)[0] == loss
    assert step(dropping, ROWS, WHOLE, number=1)[0] != pytest.approx(loss, rel=1e-3)


def test_dropout_keeps_the_mean_and_is_off_outside_training(plain: PeftModel, dropping: PeftModel) -> None:
    losses = [step(dropping, ROWS, WHOLE, number)[0] for number in range(5)]
    without = step(plain, ROWS, WHOLE)[0]
    assert all(loss != pytest.approx(without, rel=1e-4) for loss in losses)
    dropping.eval()
    try:
        assert step(dropping, ROWS, WHOLE)[0] == pytest.approx(without, rel=1e-5)
    finally:
        dropping.train()


def test_one_layer_under_dropout_is_the_published_formula(dropping: PeftModel) -> None:
    """x W^T + scale * (mask * x / (1 - rate)) A^T B^T, and its gradients, against autograd on the formula."""
    from leakage_assets.training.kernels import Dropout, dropout_seed, kept, step_seed

    name, module = next((n, m) for n, m in dropping.named_modules() if n.endswith("layers.0.mlp.down_proj"))
    a, b = (side["default"].weight for side in (module.lora_A, module.lora_B))
    x = torch.randn(1, 6, module.in_features, requires_grad=True)
    mask = kept(6, module.in_features, Dropout(step_seed(dropout_seed(5, name), 2), 4, 0.3), x.device)
    expected = module.base_layer(x) + 2.0 * (mask * x / 0.7) @ a.T @ b.T
    weights = torch.randn_like(expected)
    with packed(dropping, Moment(training=5, step=2, first=4)):
        found = module(x)
        gained = torch.autograd.grad((found * weights).sum(), (x, a, b))
    torch.testing.assert_close(found, expected)
    for one, other in zip(gained, torch.autograd.grad((expected * weights).sum(), (x, a, b)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_checkpointing_changes_nothing(dropping: PeftModel) -> None:
    loss, expected = step(dropping, ROWS, 12)
    dropping.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        again, found = step(dropping, ROWS, 12)
    finally:
        dropping.gradient_checkpointing_disable()
    assert again == pytest.approx(loss, rel=1e-6)
    assert_same(found, expected)


def own_forwards(model: torch.nn.Module) -> Iterator[str]:
    return (name for name, module in model.named_modules() if "forward" in vars(module))


def test_every_layer_is_replaced_for_the_time_of_the_block_alone(plain: PeftModel, base: BaseModel) -> None:
    before, flags = set(own_forwards(plain)), torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="in the middle"), packed(plain, Moment(0)):
        replaced = set(own_forwards(plain)) - before
        assert plain.get_base_model().config._attn_implementation == ATTENTION
        raise RuntimeError("in the middle")
    # In each block seven adapted layers, two norms, attention and a gated unit; the last norm.
    assert len(replaced) == base.blocks * (7 + 2 + 1 + 1) + 1
    assert set(own_forwards(plain)) == before
    assert plain.get_base_model().config._attn_implementation == "sdpa"
    assert torch.are_deterministic_algorithms_enabled() == flags
    assert not set(own_forwards(base.model)) and base.model.config._attn_implementation == "sdpa"


def test_attention_without_its_pack_is_refused(plain: PeftModel) -> None:
    with packed(plain, Moment(0)), pytest.raises(ValueError, match="no pack, or a mask"):
        plain(input_ids=torch.tensor([[1, 2, 3]]))


def test_attention_through_the_interface_is_the_same(plain: PeftModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of models whose attention is not one of the known classes."""
    loss, expected = step(plain, ROWS, WHOLE)
    monkeypatch.setattr("leakage_assets.training.packed.ATTENTIONS", ())
    again, found = step(plain, ROWS, WHOLE)
    assert again == pytest.approx(loss, rel=1e-6)
    assert_same(found, expected)


def test_a_window_shorter_than_a_row_is_refused() -> None:
    (pack,) = pack_step(ROWS, WHOLE)
    states = torch.zeros(1, 2, pack.tokens, 4)
    with pytest.raises(TrainingError, match=r"a row of 9 tokens is longer than the window of 8.*as_published"):
        attend(None, states, states, states, None, pack=pack, sliding_window=8)
    out, _ = attend(None, states, states, states, None, pack=pack, sliding_window=9)
    assert out.shape == (1, pack.tokens, 2, 4)


def test_another_kind_of_adapter_is_refused(base: BaseModel) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(shared_copy(base.model), LoraConfig(r=4, target_modules=["q_proj"], use_dora=True))
    with pytest.raises(TrainingError, match=r"q_proj: packed mode computes plain LoRA"), packed(model, Moment(0)):
        pass
    assert not set(own_forwards(model))


def attention_of_each_row(pack: Pack, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Softmax of scaled products under a causal mask, row by row."""
    outs = []
    starts = [*(pack.position_ids[0] == 0).nonzero().flatten().tolist(), pack.tokens]
    groups = query.shape[1] // key.shape[1]
    for start, end in pairwise(starts):
        q = query[0, :, start:end]
        k, v = (x[0, :, start:end].repeat_interleave(groups, dim=0) for x in (key, value))
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        later = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
        outs.append((scores.masked_fill(later, float("-inf")).softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outs)[None]


def test_attention_and_its_gradients_are_those_of_the_formula() -> None:
    (pack,) = pack_step(ROWS, WHOLE)
    torch.manual_seed(0)
    states: list[Any] = [torch.randn(1, heads, pack.tokens, 8, requires_grad=True) for heads in (4, 2, 2)]
    expected = attention_of_each_row(pack, *states)
    out, _ = attend(None, *states, None, pack=pack)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad((out * weights).sum(), states),
        torch.autograd.grad((expected * weights).sum(), states),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
