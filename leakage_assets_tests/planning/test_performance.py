"""What a run achieved, against the hardware's limit."""

from __future__ import annotations

import pytest

from leakage_assets.planning.hardware import HARDWARE
from leakage_assets.planning.performance import performance
from leakage_assets.planning.work import Work

H200 = HARDWARE["h200"]


def test_a_run_at_the_limit_reaches_all_of_it() -> None:
    work = Work(1000, 3 * H200.bfloat16, H200.bandwidth, "bfloat16")
    assert performance([work], 3.0, H200) == {
        "tokens_per_s": pytest.approx(1000 / 3),
        "model_flop_utilisation": 1.0,
        "share_of_limit": 1.0,
    }


def test_traffic_counts_for_the_limit_and_not_for_flop_utilisation() -> None:
    read, decoded = Work(500, H200.bfloat16, 0, "bfloat16"), Work(80, H200.bfloat16, 3 * H200.bandwidth, "bfloat16")
    found = performance([read, decoded], 8.0, H200)
    assert found == {"tokens_per_s": 10.0, "model_flop_utilisation": 0.25, "share_of_limit": 0.5}


def test_unknown_hardware_leaves_the_rate() -> None:
    assert performance([Work(10, 1, 1, "float32")], 2.0, None) == {"tokens_per_s": 5.0}


@pytest.mark.parametrize(("work", "seconds"), [([], 1.0), ([Work(1, 1, 1, "float32")], 0.0)])
def test_no_work_and_no_time_have_no_performance(work: list[Work], seconds: float) -> None:
    with pytest.raises(ValueError, match="expected some of both"):
        performance(work, seconds, H200)
