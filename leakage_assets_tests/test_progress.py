from __future__ import annotations

import pytest

from leakage_assets import progress
from leakage_assets.progress import Progress


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_short_loop_is_silent(clock: Clock) -> None:
    lines: list[str] = []
    with Progress(100, "samples", lines.append) as shown:
        for _ in range(9):
            clock.now += 1
            shown.advance(10)
    assert lines == []


def test_a_long_loop_reports_every_few_seconds_and_at_its_end(clock: Clock) -> None:
    lines: list[str] = []
    with Progress(2_000, "samples", lines.append) as shown:
        for _ in range(20):
            clock.now += 1
            shown.advance(100, tokens=4_500)
    assert lines == [
        "samples: 1,000/2,000 (50%), 100.0/s, 4,500 tokens/s, 10 s left",
        "samples: 1,500/2,000 (75%), 100.0/s, 4,500 tokens/s, 5 s left",
        "samples: 2,000/2,000 (100%), 100.0/s, 4,500 tokens/s, 0 s left",
    ]


def test_nothing_to_do_is_complete(clock: Clock) -> None:
    assert Progress(0, "samples", print).line() == "samples: 0/0 (100%), 0.0/s, no rate yet"


def test_without_terminal_lines_go_to_standard_error(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, "steps") as shown:
        clock.now += 11
        shown.advance(1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("steps: 1/2 (50%)")


def test_a_terminal_gets_a_bar(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(2, "steps") as shown:
        shown.advance(1)
        assert shown._bar is None
        clock.now += 11
        shown.advance(1, tokens=22)
        assert shown._bar is not None
        assert shown._bar.tasks[0].completed == 2
        assert shown._bar.tasks[0].fields["rates"] == "0.2/s 2 tokens/s"
