"""The web server and the daemon as processes of their own, and what the web UI would ask them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import dagster as dg

from leakage_assets.paths import REPO

LOCATION = "leakage_assets_tests.orchestration.small_location"
DAEMON = "leakage_assets_tests.orchestration.quick_daemon"
FINISHED = {"COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED", "COMPLETED"}

T = TypeVar("T")

LAUNCH = """
mutation($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on Error { message }
  }
}"""
RETRY = """
mutation($params: ReexecutionParams!) {
  reexecutePartitionBackfill(reexecutionParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on Error { message }
  }
}"""
BACKFILL = """
query($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    __typename
    ... on PartitionBackfill { status runs { runId status assetSelection { path } tags { key value } } }
    ... on Error { message }
  }
}"""


@dataclass(frozen=True)
class WebServer:
    """The GraphQL side of a running web server."""

    url: str

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The one field a query asks for."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        # The server is on this machine: no proxy.
        with build_opener(ProxyHandler({})).open(request, timeout=60) as reply:
            answer = json.load(reply)
        assert "errors" not in answer, answer["errors"]
        (field,) = answer["data"].values()
        return dict(field)

    def launch(self, assets: Sequence[Sequence[str]], partitions: Sequence[str]) -> str:
        """Launch a backfill as the UI does; returns its id."""
        selection = [{"path": list(path)} for path in assets]
        return self._launched(
            self.ask(LAUNCH, params={"assetSelection": selection, "partitionNames": list(partitions)})
        )

    def retry(self, backfill: str) -> str:
        """Retry a backfill from its failures; returns the new backfill's id."""
        return self._launched(self.ask(RETRY, params={"parentRunId": backfill, "strategy": "FROM_FAILURE"}))

    def finish(self, backfill: str, seconds: float) -> tuple[str, list[dict[str, Any]]]:
        """Wait for a backfill; its status and runs."""

        def finished() -> dict[str, Any] | None:
            told = self.ask(BACKFILL, id=backfill)
            assert told["__typename"] == "PartitionBackfill", told
            return told if told["status"] in FINISHED else None

        told = wait_for(finished, seconds, f"backfill {backfill}")
        return told["status"], told["runs"]

    @staticmethod
    def _launched(told: dict[str, Any]) -> str:
        assert told["__typename"] == "LaunchBackfillSuccess", told
        return str(told["backfillId"])


def wait_for(probe: Callable[[], T | None], seconds: float, what: str) -> T:
    """Ask every half second until there is an answer. Raises ``TimeoutError``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = probe()
        if answer is not None:
            return answer
        time.sleep(0.5)
    raise TimeoutError(f"{what} did not finish within {seconds:.0f} s")


@contextmanager
def deployment(home: Path, artifacts: Path, **environment: str) -> Iterator[WebServer]:
    """Web server and daemon over the small location, with the repository's instance settings; gone afterwards."""
    home.mkdir(parents=True)
    shutil.copy(REPO / "dagster.yaml", home / "dagster.yaml")
    env = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "LEAKAGE_ARTIFACTS": str(artifacts),
        # Not those of the machine, where real work may hold the devices for hours.
        "LEAKAGE_LEASES": str(home / "leases"),
        "PYTHONPATH": str(REPO),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    # Two processes that create the databases at the same moment spoil them, so they are created first.
    dg.DagsterInstance.from_config(str(home)).dispose()
    port = free_port()
    server = ["-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-m", LOCATION]
    with ExitStack() as stack:
        stack.enter_context(process(server, env, home / "webserver.log"))
        stack.enter_context(process(["-m", DAEMON, "run", "-m", LOCATION], env, home / "daemon.log"))
        yield wait_for(lambda: answering(WebServer(f"http://127.0.0.1:{port}")), 90, "the web server's start")


def answering(server: WebServer) -> WebServer | None:
    """The server once it answers and has loaded the code location."""
    try:
        told = server.ask("{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }")
    except (URLError, ConnectionError, TimeoutError):
        return None
    return server if [entry["loadStatus"] for entry in told["locationEntries"]] == ["LOADED"] else None


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def process(arguments: Sequence[str], env: dict[str, str], log: Path) -> Iterator[None]:
    """A Python process leading a group of its own, which is ended as a whole."""
    with log.open("w") as file:
        command = [sys.executable, *arguments]
        child = subprocess.Popen(command, env=env, cwd=REPO, stdout=file, stderr=file, start_new_session=True)
    try:
        yield
    finally:
        signal_group(child.pid, signal.SIGTERM)
        try:
            child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            signal_group(child.pid, signal.SIGKILL)
            child.wait(timeout=20)
        # Children that outlived their leader.
        signal_group(child.pid, signal.SIGKILL)


def signal_group(leader: int, what: signal.Signals) -> None:
    """Signal a process group that may be gone already."""
    try:
        os.killpg(leader, what)
    except ProcessLookupError:
        return


def processes_of(home: Path) -> list[str]:
    """Command lines of the processes that were started for this DAGSTER_HOME."""
    wanted, found = f"DAGSTER_HOME={home}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it ended in between, or is another user's
            continue
    return found
