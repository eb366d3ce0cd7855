"""The code location of `benchmarks.dagster_207`: the production definitions over the benchmark's profile.

One thing differs from production: vLLM's answers end where `lengths` says, since random weights do not end them.
"""

from __future__ import annotations

from typing import Any

from benchmarks.lengths import given_length
from benchmarks.study_207 import NAME
from leakage_assets.definitions import definitions
from leakage_assets.generation import vllm_engine
from leakage_assets.generation.requests import Request, Sampling, sample_seed
from leakage_assets.profiles import load_profile


class GivenLengths(vllm_engine.VllmEngine):
    """The engine itself, but an answer ends at its given length and nowhere else."""

    def _parameters(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        length = min(given_length(sample_seed(request, sampling)), sampling.max_new_tokens)
        return {**super()._parameters(request, sampling), "max_tokens": length, "stop_token_ids": []}


vllm_engine.VllmEngine = GivenLengths  # type: ignore[misc]
defs = definitions(load_profile(NAME))
