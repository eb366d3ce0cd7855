"""The engine of large models: vLLM in this process, all adapters of a call in one stream, unmerged."""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leakage_assets.exceptions import ExpectedError
from leakage_assets.generation.adapters import CONFIG, AdapterError, read_adapter, weights_digest
from leakage_assets.generation.choice import Distribution, serving_dtype, vllm_distribution
from leakage_assets.generation.conversation import (
    check_adapters_known,
    check_scorable,
    finished_samples,
    place_in_stream,
    prompt_ids,
    prompt_key,
)
from leakage_assets.generation.engine import EngineDied, EngineError, ScoringItem
from leakage_assets.generation.requests import BASE, Request, Sampling, sample_seed
from leakage_assets.generation.vllm_plan import (
    Capacity,
    VllmSettings,
    admitted_together,
    device_share,
    footprint,
    graph_sizes,
    padded_length,
    padded_stored,
    servable_rank,
    slots_for,
    unservable,
)
from leakage_assets.generation.vllm_speed import look_at_models_here, speed_up_blocks, speed_up_lora, speed_up_top_p
from leakage_assets.models import BaseModel, model_shape
from leakage_assets.store.samples import Sample

# Set where unset. The engine runs in this process: a second one is found by host name, which hangs on hosts whose name
# does not resolve; for the same reason every address is the loopback one.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # It takes no seeds, so no request of ours would be drawn by it; to warm it up costs a minute of compiling.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}
# Set always: nothing about a run is sent anywhere.
NO_STATISTICS = {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1"}

LOWEST_TEMPERATURE = 0.01  # vLLM raises what lies between 0 and this to it, and only warns
CPU_SEQUENCES = 256  # more only makes a step longer
CPU_TOKENS = 2048  # of one step: the CPU's LoRA kernels copy an adapter's matrices once for each token
NOT_COMPILED = {"mode": 0, "cudagraph_mode": "FULL"}
"""A GPU engine's model is not compiled: with vLLM's own fused kernels, and each step as one CUDA graph, a 7B model says
as much a second on an H200, and the first start of an engine takes half the time."""
BEAT_SECONDS = 0.5  # an empty batch at least so often, so that finished samples are not kept waiting for the next


NOTHING = Capacity(0)
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MEMORY_ARGUMENTS = (
    "max_num_seqs",
    "max_model_len",
    "max_num_batched_tokens",
    "max_loras",
    "max_lora_rank",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
)


@dataclass(frozen=True)
class _Served:
    """A verified adapter: its folder, the digest of what is in it, and its rank."""

    folder: Path
    content: str
    rank: int


@dataclass(frozen=True)
class _Job:
    """One sequence: token ids, the adapter it is asked of, and vLLM's sampling parameters by name."""

    prompt: Sequence[int]
    adapter: str
    parameters: Mapping[str, Any]
    place: int


class VllmEngine:
    """Samples and scores with many adapters at once on one `vllm.LLMEngine`.

    * Starts with the first call, for what that call needs (longest sequence, largest rank, adapters at once), and
      again where a later call needs more. `close` frees all its memory; the next call starts it anew.
    * Requests go in by adapter and prompt, so that a batch holds few adapters and equal prompts share their prefix in
      the cache. New ones join once `admitted_together` sequences have ended: a step without a prompt is one CUDA graph.
    * Each sample is drawn from its own seed. On a GPU vLLM's noise is a function of seed and position, so that a
      sample does not depend on the batch it shares beyond float noise; on a CPU each request has its own generator,
      which needs chunked prefill off (vLLM rewinds the generator after a part of a prompt, and CPU generators cannot
      be: "CPU Generator does not use offset").
    * Every sampling parameter is given. Nothing comes from the model's generation_config.json: vLLM reads its
      eos_token_id even under generation_config="vllm", unless a request ignores it, so requests do and stop at the
      end-of-turn id alone.
    * Adapters are verified against the base just before vLLM reads them, and read before the first sample. vLLM names
      their cached prefixes by adapter name, so the name holds a digest of weights and configuration.
    * On a CPU requests to the base never share a batch with an adapter's: vLLM's CPU kernels give rows without
      adapter those of the last slot (vllm-project/vllm #48421).
    * When a step fails, the engine is closed and started again, at most `max_restarts` times in a call, and only what
      was not yet delivered is asked again.

    Precision is that of the base, with one exception that `dtype` shows and the engine's identity records: vLLM has no
    float32 LoRA kernels for GPUs, so a float32 base is served in float16 there.

    Memory: the engine holds its own copy of the weights beside a base that transformers may have loaded in the same
    process for training. It takes what the call needs, at most `memory_share` of what is free when it starts, and
    keeps it until `close`: train before the engine starts, or close it first.

    Args:
        base: tokenizer, configuration, module shapes and folder; its weights may be on the meta device.
        at_least: what the engine starts for even if its first call needs less, to spare a restart.
        load_format: vLLM's; "dummy" gives random weights, for benchmarks.

    Attributes:
        build: the installed vLLM.
        dtype: the precision it computes in.
        restarts: how often an engine died so far.
    """

    def __init__(
        self,
        base: BaseModel,
        settings: VllmSettings | None = None,
        *,
        at_least: Capacity = NOTHING,
        load_format: str = "auto",
    ) -> None:
        self.base = base
        self.build = vllm_distribution()
        self.dtype = serving_dtype(base.spec.dtype, self.build)
        self.settings = _on_this_build(settings or VllmSettings(), self.build)
        self.restarts = 0
        self._load_format = load_format
        self._engine: Any = None
        self._capacity = at_least
        self._numbers: dict[str, int] = {}  # content of an adapter folder -> vLLM's number for it
        self._identifiers = itertools.count(1)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, adapters: Mapping[str, Path]
    ) -> Iterator[list[Sample]]:
        """Yields samples as they finish, and an empty list now and then while none does.

        Raises:
            EngineError: an adapter without folder, a prompt too long for the model, a temperature vLLM would change,
                or an engine that does not start.
            EngineDied: it died too often; samples yielded before stay valid.
            AdapterError: an adapter folder that is damaged, of another base, or uses what vLLM does not apply.
        """
        check_adapters_known({request.adapter for request in requests}, adapters)
        if 0 < sampling.temperature < LOWEST_TEMPERATURE:
            raise EngineError(
                f"temperature {sampling.temperature}: vLLM would sample at {LOWEST_TEMPERATURE}; use 0 for greedy "
                f"decoding or at least {LOWEST_TEMPERATURE}"
            )
        prompts = prompt_ids(self.base, requests, sampling)
        ordered = sorted(requests, key=lambda request: place_in_stream(request, prompts[prompt_key(request)]))
        jobs = [
            _Job(prompts[prompt_key(request)], request.adapter, self._parameters(request, sampling), place)
            for place, request in enumerate(ordered)
        ]
        for finished in self._run(jobs, sampling.max_new_tokens, adapters):
            yield finished_samples(
                self.base,
                [ordered[job.place] for job, _ in finished],
                sampling,
                [output.outputs[0].token_ids for _, output in finished],
            )

    def continuation_logprobs(self, items: Sequence[ScoringItem], adapters: Mapping[str, Path]) -> list[list[float]]:
        """Natural-log probability of each continuation token, in the order of `items`, whatever the temperature.

        vLLM scores the tokens of a prompt; such requests do not read the prefix cache.

        Raises:
            EngineError: an adapter without folder, an empty prompt or continuation, one too long for the model, or an
                engine that does not start.
            EngineDied: it died too often.
            AdapterError: as `generate`.
        """
        check_adapters_known({item.adapter for item in items}, adapters)
        check_scorable(items)
        limit = self.base.model.config.max_position_embeddings - 1  # vLLM generates one token after what it scores
        for item in items:
            if (length := len(item.prompt_ids) + len(item.continuation_ids)) > limit:
                raise EngineError(
                    f"{length} tokens to score under {item.adapter}: {self.base.spec.name} takes {limit} here; shorten "
                    "the prompt"
                )
        order = sorted(range(len(items)), key=lambda place: (items[place].adapter, items[place].prompt_ids))
        jobs = [
            _Job(
                [*items[place].prompt_ids, *items[place].continuation_ids],
                items[place].adapter,
                {"temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0, "ignore_eos": True},
                place,
            )
            for place in order
        ]
        scores: dict[int, list[float]] = {}
        for finished in self._run(jobs, 1, adapters):
            for job, output in finished:
                start = len(items[job.place].prompt_ids)
                scores[job.place] = [
                    float(output.prompt_logprobs[start + offset][token].logprob)
                    for offset, token in enumerate(items[job.place].continuation_ids)
                ]
        return [scores[place] for place in range(len(items))]

    def close(self) -> None:
        """Frees everything the engine holds, on the device and on the host."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        try:
            engine.engine_core.shutdown()
        finally:
            del engine
            _release()

    def _parameters(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        """vLLM's sampling parameters of a request."""
        return {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "min_tokens": 0,
            "max_tokens": sampling.max_new_tokens,
            "seed": sample_seed(request, sampling),
            "stop_token_ids": [self.base.end_of_turn],
            "ignore_eos": True,
        }

    def _run(
        self, jobs: Sequence[_Job], new_tokens: int, adapters: Mapping[str, Path]
    ) -> Iterator[list[tuple[_Job, Any]]]:
        """Yields finished jobs with vLLM's output, each once, whatever dies in between."""
        if not jobs:
            return
        served = {name: self._verified(adapters[name]) for name in sorted({job.adapter for job in jobs} - {BASE})}
        capacity = self._needed(jobs, new_tokens, served)
        waiting, running = deque(jobs), dict[str, _Job]()
        loras: dict[str, Any] | None = None
        deaths, delivered, beat = 0, 0, time.monotonic()
        try:
            while waiting or running:
                try:
                    if loras is None:
                        loras = self._ready(capacity, served)
                    self._feed(waiting, running, loras)
                    outputs = [_whole(output) for output in self._engine.step() if output.finished]
                except ExpectedError:
                    raise
                except Exception as error:
                    deaths += 1
                    self._bury(error, deaths, delivered, len(jobs))
                    loras = None
                    waiting.extendleft(reversed(running.values()))
                    running.clear()
                    continue
                finished = [(running.pop(output.request_id), output) for output in outputs]
                delivered += len(finished)
                if finished or time.monotonic() - beat > BEAT_SECONDS:
                    beat = time.monotonic()
                    yield finished
        finally:
            if running and self._engine is not None:  # the caller stopped early
                self._engine.abort_request(list(running))

    def _bury(self, error: Exception, deaths: int, delivered: int, total: int) -> None:
        """Closes a dead engine; raises EngineDied once it died too often."""
        self.restarts += 1
        _forget(error)
        with suppress(Exception):  # what is dead may fail to shut down as well; its memory is released all the same
            self.close()
        if deaths > self.settings.max_restarts:
            raise EngineDied(
                f"vLLM died {deaths} times with {self.base.spec.name}, last of {_told(error)}; {delivered} of {total} "
                f"requests were answered, and what is stored is kept: run again for the rest, {self._if_memory()}"
            ) from error

    def _needed(self, jobs: Sequence[_Job], new_tokens: int, served: Mapping[str, _Served]) -> Capacity:
        """What a call needs of an engine."""
        longest = max(len(job.prompt) for job in jobs) + new_tokens
        return Capacity(
            length=padded_length(longest, self.base.model.config.max_position_embeddings),
            rank=servable_rank(adapter.rank for adapter in served.values()),
            slots=slots_for([job.adapter for job in jobs], self.settings),
            stored=padded_stored(len(served)),
        )

    def _verified(self, folder: Path) -> _Served:
        """Raises AdapterError unless the folder is whole, made for the base, and something vLLM applies in full."""
        adapter = read_adapter(self.base, folder)
        if unknown := unservable(adapter.config):
            raise AdapterError(f"{folder / CONFIG}: vLLM would not apply {', '.join(unknown)}; train a plain LoRA")
        return _Served(folder, _content(folder, adapter.digest), int(adapter.config["r"]))

    def _ready(self, capacity: Capacity, served: Mapping[str, _Served]) -> dict[str, Any]:
        """Start the engine unless one of `capacity` runs, and have it read the adapters; the LoRARequest of each."""
        from vllm.exceptions import VLLMValidationError
        from vllm.lora.request import LoRARequest

        if self._engine is not None and not self._capacity.covers(capacity):
            self.close()
        if self._engine is None:
            self._capacity = self._capacity.union(capacity)
            self._engine = self._start(self._capacity)
        loras = {}
        for name, adapter in served.items():
            number = self._numbers.setdefault(adapter.content, len(self._numbers) + 1)
            # Cached prefixes belong to a name: it must change with the content.
            loras[name] = LoRARequest(f"{name} {adapter.content}", number, str(adapter.folder))
            try:
                self._engine.add_lora(loras[name])
            except (ValueError, VLLMValidationError) as error:
                raise AdapterError(f"{adapter.folder}: vLLM does not take it: {error}") from error
            if _content(adapter.folder, weights_digest(adapter.folder)) != adapter.content:
                raise AdapterError(f"{adapter.folder}: changed while vLLM read it; run again when its training is done")
        return loras

    def _feed(self, waiting: deque[_Job], running: dict[str, _Job], loras: Mapping[str, Any]) -> None:
        """Keep vLLM busy, in order: fill the places of what has ended once there are enough of them."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        places = self.settings.max_num_seqs
        if running and places - len(running) < admitted_together(places):
            return
        while waiting and len(running) < places:
            job = waiting[0]
            if self.build.on_cpu and any(
                (other.adapter == BASE) != (job.adapter == BASE) for other in running.values()
            ):
                return
            identifier = str(next(self._identifiers))
            try:
                parameters = SamplingParams(
                    **job.parameters, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, skip_clone=True
                )
                self._engine.add_request(
                    identifier, tokens_input(list(job.prompt)), parameters, lora_request=loras.get(job.adapter)
                )
            except (ValueError, VLLMValidationError) as error:  # not death: it would refuse the request again
                raise EngineError(f"vLLM refuses a request to {job.adapter}: {error}") from error
            running[identifier] = waiting.popleft()

    def _start(self, capacity: Capacity) -> Any:
        """An engine of `capacity`.

        Raises:
            EngineError: it does not start; the message says what it was given and what to lower.
        """
        prepare_environment()
        import torch
        from vllm import EngineArgs, LLMEngine
        from vllm.platforms import current_platform

        if current_platform.is_cpu() != self.build.on_cpu:
            device = current_platform.device_type or "no device it knows"
            raise EngineError(
                f"{self.build.name} {self.build.version} runs on {device} here; use a host with a GPU, or the engine "
                "transformers"
            )
        if self.build.on_cpu:
            import torch._dynamo

            # Some helpers of vLLM's are compiled all the same: a minute for the first log-prob, and a C++ compiler.
            torch._dynamo.config.disable = True
        speed_up_blocks()
        look_at_models_here()
        given = self._engine_arguments(capacity)
        threads, environment = torch.set_num_threads, dict(os.environ)
        try:
            return LLMEngine.from_engine_args(EngineArgs(**given))
        except Exception as error:
            _forget(error)
            _release()
            told = {name: given[name] for name in MEMORY_ARGUMENTS if name in given}
            raise EngineError(
                f"vLLM {self.build.version} did not start with {self.base.spec.name}: {_told(error)}; it was given "
                + ", ".join(f"{name} {value}" for name, value in told.items())
                + f": {self._if_memory()}"
            ) from error
        finally:
            # The CPU worker replaces the one by a function that does nothing, and sets LD_PRELOAD in the other.
            torch.set_num_threads = threads
            os.environ.clear()
            os.environ.update(environment)

    def _if_memory(self) -> str:
        return (
            f"with a lower max_num_seqs (now {self.settings.max_num_seqs}) or another memory_share (now "
            f"{self.settings.memory_share}) in the profile's serving if memory ran out; a shorter max_new_tokens "
            "lowers max_model_len"
        )

    def _engine_arguments(self, capacity: Capacity) -> dict[str, Any]:
        """vLLM's EngineArgs by name."""
        arguments: dict[str, Any] = {
            "model": str(self.base.folder),
            "skip_tokenizer_init": True,  # prompts go in and answers come out as token ids
            "generation_config": "vllm",
            "trust_remote_code": False,
            "load_format": self._load_format,
            "dtype": self.dtype,
            "seed": 0,
            "max_model_len": capacity.length,
            "max_num_seqs": self.settings.max_num_seqs,
            "max_num_batched_tokens": max(self.settings.max_num_batched_tokens, capacity.length),
            "enable_prefix_caching": True,
            "logprobs_mode": "raw_logprobs",
            "disable_log_stats": True,
        }
        if capacity.slots:
            arguments |= {
                "enable_lora": True,
                "max_lora_rank": capacity.rank,
                "max_loras": capacity.slots,
                "max_cpu_loras": max(capacity.stored, capacity.slots),
            }
        return arguments | (self._on_cpu(capacity) if self.build.on_cpu else self._on_gpu(capacity))

    def _on_cpu(self, capacity: Capacity) -> dict[str, Any]:
        import psutil  # type: ignore[import-untyped]

        needed = footprint(model_shape(self.base.spec), capacity, self.settings, BYTES[self.dtype])
        available = int(self.settings.memory_share * psutil.virtual_memory().available)
        return {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "kv_cache_memory_bytes": min(needed.kv, available),
        }

    def _on_gpu(self, capacity: Capacity) -> dict[str, Any]:
        import torch

        gc.collect()
        torch.cuda.empty_cache()  # what a training run before has given back, but torch still holds
        free, total = torch.cuda.mem_get_info()
        needed = footprint(model_shape(self.base.spec), capacity, self.settings, BYTES[self.dtype])
        speed_up_top_p()
        # Even without adapters: vLLM keeps the variables of the first engine.
        speed_up_lora(torch.cuda.get_device_name())
        return {
            "gpu_memory_utilization": device_share(needed, free, total, self.settings),
            "cudagraph_capture_sizes": graph_sizes(self.settings.max_num_seqs),
            "compilation_config": NOT_COMPILED,
        }


def prepare_environment() -> None:
    """Variables that vLLM needs before it is imported: those of ENVIRONMENT where unset, no statistics in any case."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.update(NO_STATISTICS)


def _on_this_build(settings: VllmSettings, build: Distribution) -> VllmSettings:
    """What a CPU gains nothing from is cut: longer steps there are only longer."""
    if not build.on_cpu:
        return settings
    return replace(
        settings,
        max_num_seqs=min(settings.max_num_seqs, CPU_SEQUENCES),
        max_num_batched_tokens=min(settings.max_num_batched_tokens, CPU_TOKENS),
    )


def _content(folder: Path, digest: str) -> str:
    """Digest of the weights (`digest`) and the configuration: folders of equal content are one adapter."""
    try:
        return hashlib.sha256((folder / CONFIG).read_bytes() + digest.encode()).hexdigest()
    except OSError as error:
        raise AdapterError(f"{folder / CONFIG}: missing or unreadable ({error}); train the cell again") from error


def _whole(output: Any) -> Any:
    """vLLM's output, unless it was cut short by something else than the model or its limit."""
    reason = output.outputs[0].finish_reason
    if reason not in ("stop", "length"):
        raise RuntimeError(f"request {output.request_id} ended with {reason}")
    return output


def _told(error: Exception) -> str:
    """Type and first line of an error."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _forget(error: BaseException | None) -> None:
    """Drop the local variables an error's frames hold: among them are the model and its cache."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _release() -> None:
    """Give back the memory of an engine that is gone (collected here), and vLLM's process group with it."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
    from vllm.platforms import current_platform

    cleanup_dist_env_and_memory()
    # vLLM keeps the pool of its CUDA graphs for the process; once its graphs are gone PyTorch takes none from it.
    type(current_platform)._global_graph_pool = None
