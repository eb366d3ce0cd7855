"""The hardware table, the names drivers use, and the measurement of this machine."""

from __future__ import annotations

import pytest

from leakage_assets.planning.hardware import HARDWARE, HardwareError, hardware_called, hardware_named, this_cpu


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("one NVIDIA H200, 16 CPU cores", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA GH200 480GB", None),
        ("AMD EPYC", None),
    ],
)
def test_drivers_names_find_their_hardware_and_no_other(text: str, name: str | None) -> None:
    found = hardware_called(text)
    assert (found.name if found else None) == name


def test_every_entry_finds_itself_and_says_where_its_figures_come_from() -> None:
    for name, hardware in HARDWARE.items():
        assert hardware.name == name
        assert hardware_called(hardware.title) == hardware
        assert "datasheet" in hardware.source
        assert hardware.rate("bfloat16") > hardware.rate("float32") > hardware.bandwidth > hardware.memory


def test_unknown_hardware_is_answered_with_the_known() -> None:
    with pytest.raises(HardwareError, match="no hardware 'b200'; hardware: h200, h100, a100, cpu"):
        hardware_named("b200")


def test_this_machine_is_measured_once() -> None:
    cpu = hardware_named("cpu")
    assert cpu is this_cpu()
    # From a weak laptop to a large server.
    assert 1e9 < cpu.float32 < 1e14
    assert 1e8 < cpu.bandwidth < 1e13
    assert cpu.memory > 2**29
    assert "measured now" in cpu.source
