"""A run worker whose Kubernetes cluster is this machine: a pod is a process with the variables of the pod's spec alone.

    python -m leakage_assets_tests.orchestration.kubernetes_run FOLDER ASSET...

FOLDER holds ``location.json``: the image of the code location and the container context that the chart gives it. The
job specs go to ``jobs.json`` there. The exit code tells whether the run succeeded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes.client

from leakage_assets.paths import REPO
from leakage_assets_tests.orchestration import small_location


class Cluster:
    """Takes the place of the Kubernetes API, as far as dagster-k8s asks it for jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, dict[str, Any]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def create(self, body: Any, namespace: str) -> None:
        job = kubernetes.client.ApiClient().sanitize_for_serialization(body)
        name = job["metadata"]["name"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        program, *arguments = container["args"]
        assert program == "dagster", container["args"]
        variables = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        # What the image would have.
        image = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", program, *arguments], env={**image, **variables}, stdout=log, stderr=log
            )
        self.jobs[name] = {**job, "namespace": namespace}

    def status(self, name: str) -> kubernetes.client.V1Job:
        code = self.processes[name].poll()
        status = kubernetes.client.V1JobStatus(
            active=int(code is None), succeeded=int(code == 0), failed=int(code not in (None, 0))
        )
        return kubernetes.client.V1Job(status=status)


def patch(cluster: Cluster) -> None:
    """From now on this process's Kubernetes client talks to the cluster."""
    api = kubernetes.client.BatchV1Api
    api.create_namespaced_job = lambda _, body, namespace, **kwargs: cluster.create(body, namespace)
    api.read_namespaced_job_status = lambda _, name, namespace, **kwargs: cluster.status(name)


def main(folder: Path, assets: list[str]) -> bool:
    cluster = Cluster(folder)
    patch(cluster)
    location = json.loads((folder / "location.json").read_text())
    job = dg.reconstructable(small_location.foundations)
    job = job._replace(
        repository=job.repository._replace(
            container_image=location["image"], container_context=location["container_context"]
        )
    )
    keys = [key for key in small_location.foundations().asset_layer.selected_asset_keys if key.path[-1] in assets]
    with dg.DagsterInstance.get() as instance:
        result = dg.execute_job(job, instance, asset_selection=keys)
    (folder / "jobs.json").write_text(json.dumps(list(cluster.jobs.values())))
    return result.success


if __name__ == "__main__":
    sys.exit(0 if main(Path(sys.argv[1]), sys.argv[2:]) else 1)
