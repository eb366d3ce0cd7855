"""The Dagster daemon, looking at backfills every second: its half minute in between is not configurable."""

from __future__ import annotations

from dagster._daemon import controller
from dagster._daemon.cli import cli

if __name__ == "__main__":
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 1
    cli()
