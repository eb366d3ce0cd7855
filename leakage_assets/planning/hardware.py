"""Processors by what bounds a model on them: rate of matrix products, memory bandwidth, memory."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from leakage_assets.exceptions import ExpectedError
from leakage_assets.models import Dtype

GIB = 2.0**30
CPU = "cpu"

TRIALS = 5
MATRIX = 1024
COPIED = 2**25
"""Bytes copied to measure the bandwidth: more than the caches hold."""


class HardwareError(ExpectedError):
    """No hardware by this name; the message lists what there is."""


@dataclass(frozen=True)
class Hardware:
    """Rates in FLOP/s of dense matrix products, bandwidth in bytes/s, memory in bytes; `source` says whose figures.

    `driver` is a regular expression for how the driver, and so a benchmark's record, names it. `limits`: whether work
    can be no faster; rates measured on a machine that other work may share are none.
    """

    name: str
    title: str
    driver: str
    bfloat16: float
    float32: float
    bandwidth: float
    memory: float
    source: str
    limits: bool = True

    def rate(self, dtype: Dtype) -> float:
        """FLOP/s of matrix products in a precision."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


HARDWARE = {
    hardware.name: hardware
    for hardware in (
        Hardware(
            "h200",
            "NVIDIA H200",
            r"\bH200\b(?! NVL)",
            bfloat16=790e12,
            float32=67e12,
            bandwidth=4.8e12,
            memory=139 * GIB,
            source="bfloat16 rate measured on random data (8192 x 8192 x 8192), memory as the driver reports it; "
            "float32 rate and bandwidth from NVIDIA's datasheet",
        ),
        Hardware(
            "h100",
            "NVIDIA H100 SXM 80 GB",
            r"\bH100 80GB HBM3\b|\bH100 SXM",
            bfloat16=989e12,
            float32=67e12,
            bandwidth=3.35e12,
            memory=80e9,
            source="NVIDIA's datasheet (dense rates; measured products stay about a fifth below)",
        ),
        Hardware(
            "a100",
            "NVIDIA A100 SXM 80 GB",
            r"\bA100-SXM4-80GB\b|\bA100 SXM",
            bfloat16=312e12,
            float32=19.5e12,
            bandwidth=2.039e12,
            memory=80e9,
            source="NVIDIA's datasheet (dense rates)",
        ),
    )
}


def hardware_named(name: str) -> Hardware:
    """Hardware by its short name; "cpu" is this machine's, measured. Raises HardwareError listing what there is."""
    if name == CPU:
        return this_cpu()
    if name not in HARDWARE:
        raise HardwareError(f"no hardware {name!r}; hardware: {', '.join([*HARDWARE, CPU])}")
    return HARDWARE[name]


def hardware_called(text: str) -> Hardware | None:
    """The hardware of the table that a driver or a record calls so, or None."""
    return next((hardware for hardware in HARDWARE.values() if re.search(hardware.driver, text)), None)


def this_hardware() -> Hardware | None:
    """What this process computes on: its first GPU (None if the table does not have it), or else the CPU.

    Imports torch.
    """
    import torch

    return hardware_called(torch.cuda.get_device_name()) if torch.cuda.is_available() else this_cpu()


@cache
def this_cpu() -> Hardware:
    """This machine's CPU: a short float32 matrix product and a copy, the best of five each (a third of a second).

    bfloat16 is not measured; few CPUs are faster in it, and the float32 rate stands for it.
    """
    left = np.ones((MATRIX, MATRIX), dtype=np.float32)
    product = np.empty_like(left)
    rate = 2 * MATRIX**3 / _shortest(lambda: np.matmul(left, left, out=product))
    read = np.ones(COPIED, dtype=np.uint8)
    written = np.empty_like(read)
    bandwidth = 2 * COPIED / _shortest(lambda: np.copyto(written, read))
    return Hardware(
        CPU,
        f"{_cpu_model()}, {os.cpu_count()} cores",
        re.escape(_cpu_model()),
        bfloat16=rate,
        float32=rate,
        bandwidth=bandwidth,
        memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        source=f"measured now: a float32 product of {MATRIX} x {MATRIX} matrices and a copy of {COPIED // 2**20} MiB; "
        "what else the machine does takes from both, so they bound nothing",
        limits=False,
    )


def _shortest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs: what else the machine does can only add."""
    took = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    return min(took)


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)):
        return found[1].strip()
    return platform.processor() or platform.machine()
