"""The fastest settings of vLLM's LoRA kernels on this GPU, in the files that vLLM reads them from.

    python -m benchmarks.tune_lora_kernels                   # into leakage_assets/generation/lora_kernels

vLLM's kernels have settings that suit no large batch on an H200: with them an adapter costs a quarter of the decoding.
They can be given as JSON, by number of slots, matrices, tokens and sizes (`lora/ops/triton_ops/README_TUNING.md` of
vLLM); this script times every candidate on the linear layers of a shape and writes the fastest of each. Only speed
depends on them, and the order in which sums are taken.

Candidates are compiled by all cores first, each process for itself, into Triton's cache; one process then times them,
captured in a CUDA graph as the engine runs them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from leakage_assets.generation.vllm_engine import prepare_environment
from leakage_assets.generation.vllm_speed import expand_one_by_one, tuned_kernels
from leakage_assets.planning.reference import RANK
from leakage_assets.shapes import SHAPES, ModelShape, shape_named
from leakage_assets.store.files import write_atomically

SLOTS = 3
"""As many adapters as a batch of sorted requests holds."""
TOKENS = (64, 256, 1088, 4096)
"""Of a step: the end of a stream, its middle, the full engine, and many new prompts."""
SAME = {"num_ctas": 1, "max_nreg": None}
SHRINK = [
    {**SAME, "block_m": m, "block_n": RANK, "block_k": k, "split_k": split, "num_warps": 4, "num_stages": stages}
    | {"group_size_m": 8}
    for m, k, split, stages in itertools.product((16, 32, 64), (64, 128, 256), (1, 2, 4, 8, 16), (3,))
]
EXPAND = [
    {**SAME, "block_m": m, "block_n": n, "block_k": RANK, "num_warps": warps, "num_stages": 2}
    for m, n, warps in itertools.product((16, 32, 64, 128), (64, 128, 256), (4, 8))
]
# What vLLM 0.25 takes where it is told nothing.
STOCK = {
    "shrink": {**SAME, "block_m": 32, "block_n": 16, "block_k": 32, "split_k": 8, "num_warps": 4, "num_stages": 2}
    | {"group_size_m": 8},
    "expand": {**SAME, "block_m": 64, "block_n": 128, "block_k": 32, "num_warps": 4, "num_stages": 2},
}


@dataclass(frozen=True)
class Layer:
    """Linear layers that vLLM computes as one: they read `inputs` features and write each of `outputs`."""

    inputs: int
    outputs: tuple[int, ...]

    def products(self) -> list[tuple[str, int]]:
        """What is tuned: the shrink of all its layers at once, and the expand to each width (`vllm_speed`)."""
        return [("shrink", len(self.outputs)), *(("expand", width) for width in sorted(set(self.outputs)))]


def layers_of(shape: ModelShape) -> list[Layer]:
    """The products of a block."""
    linear = shape.projections()
    groups = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
    return [Layer(linear[group[0]][0], tuple(linear[name][1] for name in group)) for group in groups]


class Bench:
    """The tensors of a layer on the GPU, and its two kernels under given settings."""

    def __init__(self, layer: Layer, tokens: int) -> None:
        import torch
        from vllm.lora.ops.triton_ops.lora_kernel_metadata import LoRAKernelMeta

        def draw(*size: int) -> Any:
            return torch.randn(*size, device="cuda", dtype=torch.bfloat16) * 0.02

        slices = len(layer.outputs)
        self.x, self.y = draw(tokens, layer.inputs), draw(tokens, sum(layer.outputs))
        self.inner = torch.zeros(slices, tokens, RANK, device="cuda", dtype=torch.float32)
        self.a = [draw(SLOTS, 1, RANK, layer.inputs) for _ in layer.outputs]
        self.b = {width: draw(SLOTS, 1, width, RANK) for width in set(layer.outputs)}
        # The first tokens belong to one adapter, the last fifth to the next, as where a stream goes over to it.
        mapping = (torch.arange(tokens, device="cuda") > 0.8 * tokens).long()
        meta = LoRAKernelMeta.make(SLOTS, tokens, "cuda")
        meta.prepare_tensors(mapping)
        self.meta = meta.meta_args(tokens, False)

    def run(self, kernel: str, size: int, settings: dict[str, Any]) -> Callable[[], None]:
        """A call of the kernel "shrink", or of "expand" to a width, under `settings`."""
        from vllm.lora.ops.triton_ops import lora_expand_op, lora_shrink_op

        def shrink() -> None:
            lora_shrink_op.get_lora_op_configs = lambda *_, **__: settings
            lora_shrink_op._lora_shrink(self.x, self.a, self.inner, *self.meta, 1.0)

        def expand() -> None:
            lora_expand_op.get_lora_op_configs = lambda *_, **__: settings
            lora_expand_op._lora_expand(self.inner[:1], [self.b[size]], self.y, *self.meta, 0, True)

        return shrink if kernel == "shrink" else expand


def candidates(kernel: str) -> list[dict[str, Any]]:
    """Every setting of a kernel, the stock one first."""
    return [STOCK[kernel], *(SHRINK if kernel == "shrink" else EXPAND)]


def compile_share(layers: Sequence[Layer], share: int, shares: int) -> None:
    """Run one in `shares` of the candidates once, so that Triton's cache has them."""
    prepare_environment()
    for layer in layers:
        bench = Bench(layer, TOKENS[0])
        for kernel, size in layer.products():
            for settings in candidates(kernel)[share::shares]:
                try_run(bench.run(kernel, size, settings))


def try_run(call: Callable[[], None]) -> bool:
    """Whether the settings fit the device: some need more shared memory than it has."""
    import torch
    from triton.runtime.errors import OutOfResources

    try:
        call()
        torch.cuda.synchronize()
    except OutOfResources:
        return False
    return True


def check_one_by_one(layers: Sequence[Layer]) -> None:
    """`vllm_speed` adds to the output of a layer what vLLM's own order of kernels adds, to the last bit."""
    import torch
    from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU

    for layer in layers:
        bench = Bench(layer, TOKENS[-1])
        bench.inner.normal_()
        wrapper: Any = SimpleNamespace(
            token_mapping_meta=SimpleNamespace(meta_args=lambda *_, found=bench.meta: found),
            lora_config=SimpleNamespace(specialize_active_lora=False),
        )
        # Each its own: vLLM remembers by its address where in the output a matrix belongs.
        given = (bench.inner, tuple(bench.b[width].clone() for width in layer.outputs), layer.outputs)
        theirs, ours = bench.y.clone(), bench.y.clone()
        PunicaWrapperGPU.add_expand(wrapper, theirs, *given)
        expand_one_by_one(wrapper, ours, *given)
        if not torch.equal(theirs, ours) or torch.equal(ours, bench.y):
            raise SystemExit(f"{layer}: one by one differs by up to {(theirs - ours).abs().max().item()}")


def time_all(layers: Sequence[Layer]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The fastest settings, as vLLM reads them for each kernel, and the milliseconds of every layer and size."""
    import triton

    tuned: dict[str, Any] = {"shrink": {}, "expand": {}}
    told = []
    for layer, tokens in itertools.product(layers, TOKENS):
        bench = Bench(layer, tokens)
        for kernel, size in layer.products():
            times = []
            for number, settings in enumerate(candidates(kernel)):
                call = bench.run(kernel, size, settings)
                if try_run(call):
                    times.append((triton.testing.do_bench_cudagraph(call, rep=10), number, settings))
            stock, (best, _, fastest) = times[0][0], min(times)
            slices, k, n = (size, layer.inputs, RANK) if kernel == "shrink" else (1, RANK, size)
            place = tuned[kernel].setdefault(str(slices), {}).setdefault(str(tokens), {}).setdefault(str(k), {})
            place[str(n)] = fastest
            often = 1 if kernel == "shrink" else layer.outputs.count(size)
            told.append({"tokens": tokens, "stock_ms": often * stock, "ms": often * best})
            print(kernel, layer.outputs, size, told[-1], fastest, file=sys.stderr, flush=True)
    # One key for slots: vLLM takes the nearest it finds, and counts one more than there are.
    return {kernel: {str(SLOTS + 1): found} for kernel, found in tuned.items()}, told


def main() -> None:
    """Time all candidates and write the two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-7b")
    parser.add_argument("--folder", type=Path, help="where vLLM is not to find them")
    options = parser.parse_args()
    prepare_environment()
    layers = layers_of(shape_named(options.shape))
    check_one_by_one(layers)
    spawn, shares = multiprocessing.get_context("spawn"), max(1, (os.cpu_count() or 2) - 2)
    workers = [spawn.Process(target=compile_share, args=(layers, share, shares)) for share in range(shares)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit(f"compiling candidates ended with {worker.exitcode}")
    tuned, told = time_all(layers)
    import torch

    for kernel, name in (("shrink", "SHRINK"), ("expand", "EXPAND_TRUE")):
        file = tuned_kernels(torch.cuda.get_device_name(), name)
        folder = options.folder or file.parent
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / file.name, (json.dumps(tuned[kernel], indent=1) + "\n").encode())
    for tokens in TOKENS:
        rows = [row for row in told if row["tokens"] == tokens]
        stock, best = (sum(row[name] for row in rows) for name in ("stock_ms", "ms"))
        print(f"{tokens:,} tokens, a block: {stock:.3f} ms with vLLM's own settings, {best:.3f} ms with these")


if __name__ == "__main__":
    main()
