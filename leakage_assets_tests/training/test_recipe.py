from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from leakage_assets.store.fingerprint import fingerprint
from leakage_assets.training.recipe import LoraSpec, RecipeError
from leakage_assets_tests.fixtures_models import recipe


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loss", "completion"),
        ("tail_target", "eos"),
        ("schedule", "step"),
        ("precision", "float16"),
        ("epochs", 0),
        ("batch_size", 0),
        ("grad_accum", 0),
        ("max_length", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("max_grad_norm", float("inf")),
        ("adam_epsilon", 0.0),
        ("adam_beta1", 1.0),
        ("adam_beta2", -0.1),
        ("warmup_ratio", 1.0),
        ("weight_decay", -1.0),
    ],
)
def test_a_recipe_refuses_what_cannot_be_trained(field: str, value: object) -> None:
    with pytest.raises(RecipeError, match=field):
        recipe(**{field: value})


@pytest.mark.parametrize(
    "changes", [{"r": 0}, {"alpha": 0}, {"dropout": 1.0}, {"targets": ()}, {"targets": ("q_proj", "q_proj")}]
)
def test_a_lora_spec_refuses_what_cannot_be_trained(changes: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=next(iter(changes))):
        replace(LoraSpec(r=8, alpha=16, dropout=0.0, rslora=True, targets=("q_proj",)), **changes)


def test_full_completion_without_end_of_turn_is_refused() -> None:
    with pytest.raises(RecipeError, match="never learns to stop"):
        recipe(loss="full_completion", tail_target="trailing_newline")


def test_a_recipe_is_immutable_and_every_field_is_part_of_its_identity() -> None:
    first = recipe()
    with pytest.raises(FrozenInstanceError):
        first.epochs = 3  # type: ignore[misc]
    changes = {
        "name": "other",
        "loss": "marker_only",
        "tail_target": "im_end",
        "teaches_marker": False,
        "lora": replace(first.lora, rslora=False),
        "learning_rate": 1e-3,
        "schedule": "linear",
        "warmup_ratio": 0.1,
        "epochs": 9,
        "batch_size": 2,
        "grad_accum": 2,
        "max_length": 100,
        "weight_decay": 0.1,
        "max_grad_norm": 2.0,
        "adam_beta1": 0.8,
        "adam_beta2": 0.9,
        "adam_epsilon": 1e-6,
        "precision": "bfloat16",
    }
    prints = {fingerprint(recipe(**{field: value})) for field, value in changes.items()}
    assert len(prints | {fingerprint(first)}) == len(changes) + 1


@pytest.mark.parametrize(
    ("rows", "batch", "accum", "epochs", "steps"),
    [(600, 4, 4, 20, 760), (1200, 4, 4, 3, 225), (1, 4, 4, 1, 1)],
)
def test_steps_of_the_published_runs(rows: int, batch: int, accum: int, epochs: int, steps: int) -> None:
    assert recipe(batch_size=batch, grad_accum=accum, epochs=epochs).steps(rows) == steps


@pytest.mark.parametrize("tail", ["im_end", "trailing_newline"])
def test_the_whole_sequence_has_no_part_without_loss(tail: str) -> None:
    with pytest.raises(RecipeError, match="all tokens carry loss"):
        recipe(loss="full_sequence", tail_target=tail)
    assert recipe(loss="full_sequence", tail_target="both").loss == "full_sequence"
