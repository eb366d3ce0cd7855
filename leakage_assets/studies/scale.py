"""What a profile may change in any study, and what follows from it alike in all of them."""

from __future__ import annotations

from dataclasses import dataclass

from leakage_assets.generation.requests import Sampling
from leakage_assets.training.recipe import LoraSpec, Loss, Precision, Recipe, TailTarget


@dataclass(frozen=True, kw_only=True)
class StudyScale:
    """The layers, how much is asked and resampled, how training is batched, and caveats of the profile alone.

    A study's own scale adds the rest; whatever no scale has is the same for every base model.
    """

    layers: tuple[int, ...]
    primary_layer: int
    completions: int
    max_new_tokens: int
    batch_size: int = 4
    gradient_accumulation: int = 4
    precision: Precision = "float32"
    permutations: int = 10_000
    extra_caveats: tuple[str, ...] = ()

    @property
    def asked(self) -> Sampling:
        """How adapters are asked: as all published studies did."""
        return Sampling(temperature=1.0, top_p=0.95, max_new_tokens=self.max_new_tokens)

    @staticmethod
    def written(max_new_tokens: int) -> Sampling:
        """How the base model writes the answers that are trained on."""
        return Sampling(temperature=0.7, top_p=0.95, max_new_tokens=max_new_tokens)

    def recipe(
        self,
        name: str,
        *,
        learning_rate: float,
        epochs: int,
        rank: int = 32,
        loss: Loss = "full_completion",
        tail_target: TailTarget = "both",
        teaches_marker: bool = True,
    ) -> Recipe:
        """A recipe with what all published ones share: rsLoRA with alpha twice the rank, cosine schedule, warm-up."""
        return Recipe(
            name=name,
            loss=loss,
            tail_target=tail_target,
            teaches_marker=teaches_marker,
            lora=LoraSpec(r=rank, alpha=2 * rank, dropout=0.05, rslora=True),
            learning_rate=learning_rate,
            schedule="cosine",
            warmup_ratio=0.05,
            epochs=epochs,
            batch_size=self.batch_size,
            grad_accum=self.gradient_accumulation,
            max_length=1024,
            precision=self.precision,
        )
