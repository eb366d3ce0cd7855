"""Proof that an engine applies the adapter it was asked for, whole and at the right scale, before it is used.

An adapter that silently does nothing, is another one, or is scaled by alpha / r in place of alpha / sqrt(r)
leaves plausible text behind. Log-probabilities tell them apart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leakage_assets.generation.adapters import Adapter, read_adapter
from leakage_assets.generation.decoding import score
from leakage_assets.generation.engine import Engine, ScoringItem
from leakage_assets.generation.requests import BASE
from leakage_assets.models import BaseModel, shared_copy
from leakage_assets.training.reference import Probe, ReferenceLogprobs

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

# Two correct engines differ at least so much: in float32 by the order of sums (about 1,000 units of the last
# place of a log-prob near 1), in bfloat16 by half a step of logits between 16 and 32. A lower measured one
# is luck.
NOISE_MINIMUM = {"float32": 1e-4, "bfloat16": 0.0625}
NOISE_FACTOR = 2.0
PROVEN = "proof"  # what the engine is told the adapter is called
ALIGNMENT_MINIMUM = 0.9
SCALE_TOLERANCE = 0.05
SCALE_TOLERANCE_MAXIMUM = 0.25


@dataclass(frozen=True)
class Check:
    """One property: the value measured must be `expected` ("<=", ">" or ">=") the threshold."""

    name: str
    value: float
    expected: str
    threshold: float
    passed: bool
    detail: str


@dataclass(frozen=True)
class AdapterProof:
    """All checks of one adapter in one engine; `noise_floor`, in nats per token, needs finite log-probs."""

    noise_floor: float | None
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def failure_text(self) -> str:
        """The failed checks with their values; empty if none failed."""
        return "; ".join(
            f"{check.name} {check.value:.3g}, not {check.expected} {check.threshold:.3g}: {check.detail}"
            for check in self.checks
            if not check.passed
        )

    @classmethod
    def from_json(cls, text: str) -> AdapterProof:
        """Inverse of `json.dumps(asdict(proof))`."""
        content = json.loads(text)
        return cls(content["noise_floor"], tuple(Check(**check) for check in content["checks"]))


def prove_adapter(engine: Engine, base: BaseModel, folder: Path) -> AdapterProof:
    """Compare `engine` under the adapter in `folder` with what training wrote and its own matrices.

    The noise floor is the largest log-prob difference between the engine and PEFT without adapter, and at
    least `NOISE_MINIMUM` of the precision. Checks:

    * finite: every log-prob of the engine is a number.
    * same_file: the weights on disk are those the reference was written from.
    * moved: training moved the adapter (B is zero before the first step).
    * applied: the adapter changes some log-prob by more than twice the floor.
    * asked_for: the change points where the reference's does (cosine over all probe tokens).
    * scale: the projection of the change on the one computed from base weights + scale * B A, with
      scale = alpha / sqrt(r) under rank stabilisation, is 1; the value is its distance from 1.
    * within_noise: the engine is within twice the floor of PEFT's log-probs under the adapter.

    Raises:
        AdapterError: the folder is damaged, of another base, or lacks its reference.
    """
    import numpy as np

    weights, reference = read_adapter(base, folder), ReferenceLogprobs.read(folder)
    engine_with = _flat(engine.continuation_logprobs(_items(PROVEN, reference.probes), {PROVEN: folder}))
    engine_without = _flat(engine.continuation_logprobs(_items(BASE, reference.probes), {}))
    strange = int((~np.isfinite(engine_with)).sum() + (~np.isfinite(engine_without)).sum())
    finite = Check("finite", strange, "<=", 0, strange == 0, "log-probs that are NaN or infinite")
    if strange:
        return AdapterProof(None, (finite,))
    peft_with, peft_without = _flat(reference.with_adapter), _flat(reference.without_adapter)
    noise = max(float(np.abs(engine_without - peft_without).max()), NOISE_MINIMUM[base.spec.dtype])
    change = engine_with - engine_without
    expected = _flat(_explicit_logprobs(base, weights, reference.probes)) - peft_without
    return AdapterProof(
        noise,
        (
            finite,
            _same_file(weights, reference),
            _moved(weights, reference),
            _applied(change, noise),
            _asked_for(change, peft_with - peft_without),
            _scale(change, expected, noise, weights),
            _within_noise(engine_with - peft_with, noise),
        ),
    )


def _same_file(weights: Adapter, reference: ReferenceLogprobs) -> Check:
    same = weights.digest == reference.adapter_digest
    return Check(
        "same_file",
        float(same),
        ">=",
        1,
        same,
        f"weights {weights.digest[:12]}, reference written from {reference.adapter_digest[:12]}",
    )


def _moved(weights: Adapter, reference: ReferenceLogprobs) -> Check:
    norm = sum(float(b.double().square().sum()) for _, b in weights.modules().values()) ** 0.5
    return Check(
        "moved",
        norm,
        ">",
        0,
        norm > 0,
        f"norm of all B after {reference.steps} steps at learning rate {reference.learning_rate}",
    )


def _applied(change: NDArray[Any], noise: float) -> Check:
    largest = float(abs(change).max())
    return Check(
        "applied",
        largest,
        ">",
        NOISE_FACTOR * noise,
        largest > NOISE_FACTOR * noise,
        "largest log-prob change between the engine with and without the adapter",
    )


def _asked_for(change: NDArray[Any], reference_change: NDArray[Any]) -> Check:
    norms = float((change @ change) * (reference_change @ reference_change)) ** 0.5
    cosine = float(change @ reference_change) / norms if norms else 0.0
    return Check(
        "asked_for",
        cosine,
        ">=",
        ALIGNMENT_MINIMUM,
        cosine >= ALIGNMENT_MINIMUM,
        "cosine between the engine's log-prob changes and those of the trained adapter",
    )


def _scale(change: NDArray[Any], expected: NDArray[Any], noise: float, weights: Adapter) -> Check:
    length = float(expected @ expected) ** 0.5
    ratio = float(change @ expected) / length**2 if length else 0.0
    # One floor of noise along the expected change is allowed for, but never so much that alpha / r passes.
    tolerance = min(SCALE_TOLERANCE + (noise / length if length else 0.0), SCALE_TOLERANCE_MAXIMUM)
    return Check(
        "scale",
        abs(ratio - 1),
        "<=",
        tolerance,
        abs(ratio - 1) <= tolerance,
        f"effective scale is {ratio:.3f} of {weights.scaling:.3f} (r {weights.config['r']}, alpha "
        f"{weights.config['lora_alpha']}, rsLoRA {weights.config['use_rslora']})",
    )


def _within_noise(difference: NDArray[Any], noise: float) -> Check:
    largest = float(abs(difference).max())
    return Check(
        "within_noise",
        largest,
        "<=",
        NOISE_FACTOR * noise,
        largest <= NOISE_FACTOR * noise,
        "largest log-prob difference to PEFT under the adapter",
    )


def _explicit_logprobs(base: BaseModel, weights: Adapter, probes: Sequence[Probe]) -> list[list[float]]:
    """Log-probs with y + scale * (x A^T) B^T written out at every adapted layer, independently of PEFT."""
    model = shared_copy(base.model)
    for name, (a, b) in weights.modules().items():
        model.get_submodule(name).register_forward_hook(_added(a.to(base.device), b.to(base.device) * weights.scaling))
    return [score(model, [(probe.prompt_ids, probe.continuation_ids)], base.padding)[0] for probe in probes]


def _added(a: torch.Tensor, b: torch.Tensor) -> Callable[[Any, Any, torch.Tensor], torch.Tensor]:
    def hook(_module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return (output + (inputs[0].to(a.dtype) @ a.T) @ b.T).to(output.dtype)

    return hook


def _items(adapter: str, probes: Sequence[Probe]) -> list[ScoringItem]:
    return [ScoringItem(adapter, probe.prompt_ids, probe.continuation_ids) for probe in probes]


def _flat(rows: Sequence[Sequence[float]]) -> NDArray[Any]:
    import numpy as np

    return np.array([value for row in rows for value in row], dtype=np.float64)
