"""A Ray cluster on this machine with GPUs that exist in name only, in processes of its own."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leakage_assets_tests.orchestration.deployment import free_port

GPUS = 2
STARTS = 3
CLUSTER = """
import sys, ray
temp, port, gpus = sys.argv[1:]
ray.init(
    num_cpus=2, num_gpus=int(gpus), include_dashboard=True, dashboard_port=int(port), object_store_memory=100_000_000,
    _temp_dir=temp, log_to_driver=False, configure_logging=False,
)
print("ready", flush=True)
sys.stdin.read()
ray.shutdown()
"""


@contextmanager
def ray_cluster(log: Path, gpus: int = GPUS) -> Iterator[dict[str, str]]:
    """A cluster that has nothing of this process's environment, like one on other machines; the variables to use it."""
    port = free_port()
    # Not below pytest's folder: Ray keeps sockets here, whose paths may have 107 characters.
    temp = tempfile.mkdtemp(prefix="ray-")
    key = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": temp, "RAY_USAGE_STATS_ENABLED": "0", **key}
    command = [sys.executable, "-c", CLUSTER, temp, str(port), str(gpus)]
    # Ray gives up a start that takes 30 s, which it may on a busy machine.
    for attempt in range(STARTS):
        with log.open("w") as file:
            cluster = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
            )
        assert cluster.stdin is not None and cluster.stdout is not None
        if cluster.stdout.readline() == "ready\n":
            break
        cluster.communicate()
        assert attempt + 1 < STARTS, log.read_text()
    try:
        yield {"RAY_ADDRESS": f"http://127.0.0.1:{port}", **key}
    finally:
        cluster.stdin.close()
        try:
            cluster.wait(timeout=60)
        except subprocess.TimeoutExpired:
            cluster.kill()
            cluster.wait()
        cluster.stdout.close()
        shutil.rmtree(temp, ignore_errors=True)
