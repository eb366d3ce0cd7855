"""The documented Kubernetes example through dagster-k8s: what the pods of steps are given, and that it suffices.

There is no cluster: the processes that pods would be run on this machine, with the variables of their pods alone.
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
import pytest
import yaml
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict

from leakage_assets.paths import REPO
from leakage_assets.store.shared_root import EXPECTED, store_id
from leakage_assets_tests.orchestration.small_location import HOOK, NAME

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("orchestration")]

EXAMPLE = REPO / "docs" / "kubernetes"
ROOT = "/artifacts"
NAMESPACE = "research"
SECONDS = 300
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "u", "user": {}}],
    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    "current-context": "x",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for folder in ("home", "run", "hook"):
        (tmp_path / folder).mkdir()
    return tmp_path


def chart(home: Path) -> dict[str, Any]:
    """The example's values, with the claim mounted where the test keeps its artifacts."""
    return yaml.safe_load((EXAMPLE / "values.yaml").read_text().replace(ROOT, str(home / "artifacts")))


def deploy(home: Path, values: dict[str, Any]) -> None:
    """What the chart makes of its values: the container context of the code location, and the instance's launcher."""
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    assert deployment["includeConfigInLaunchedRuns"] == {"enabled": True}
    image = deployment["image"]
    context = {
        "image_pull_policy": image["pullPolicy"],
        "env_config_maps": [f"dagster-{deployment['name']}-user-env"],
        "volume_mounts": deployment["volumeMounts"],
        "volumes": deployment["volumes"],
        "namespace": NAMESPACE,
        "service_account_name": "dagster-user-deployments",
        "env": [*deployment["env"], {"name": HOOK, "value": str(home / "hook")}],
    }
    location = {"image": f"{image['repository']}:{image['tag']}", "container_context": {"k8s": context}}
    (home / "run" / "location.json").write_text(json.dumps(location))
    (home / "kubeconfig").write_text(yaml.safe_dump(KUBECONFIG))
    assert values["runLauncher"]["type"] == "K8sRunLauncher"
    settings = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    launcher = {
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": "dagster-postgresql-secret",
        "dagster_home": "/opt/dagster/dagster_home",
        "job_namespace": NAMESPACE,
        "load_incluster_config": False,
        "kubeconfig_file": str(home / "kubeconfig"),
        "run_k8s_config": {"pod_spec_config": settings["podSpecConfig"], "job_spec_config": settings["jobSpecConfig"]},
    }
    instance = {
        "telemetry": {"enabled": False},
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher},
    }
    (home / "home" / "dagster.yaml").write_text(yaml.safe_dump(instance))


def run(home: Path, *assets: str) -> subprocess.CompletedProcess[str]:
    """A run of these assets in the pod of a run worker; its pods' specs are in ``jobs``."""
    variables = {
        "DAGSTER_HOME": str(home / "home"),
        "LEAKAGE_EXECUTOR": "k8s",
        "LEAKAGE_ARTIFACTS": str(home / "artifacts"),
        "PYTHONPATH": str(REPO),
        "DAGSTER_STEP_DELEGATING_EXECUTOR_SLEEP_SECONDS": "0.3",
    }
    with dg.DagsterInstance.from_config(str(home / "home")):  # made once, before several processes ask for it
        pass
    module = "leakage_assets_tests.orchestration.kubernetes_run"
    return subprocess.run(
        [sys.executable, "-m", module, str(home / "run"), *assets],
        env={**os.environ, **variables}, cwd=REPO, capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip


def pods(home: Path) -> dict[str, dict[str, Any]]:
    """The job specs by asset."""
    jobs = json.loads((home / "run" / "jobs.json").read_text())
    return {job["metadata"]["labels"]["dagster/op"].rpartition("__")[2]: job for job in jobs}


def container(job: dict[str, Any]) -> dict[str, Any]:
    (only,) = job["spec"]["template"]["spec"]["containers"]
    return dict(only)


def test_pods_of_steps_are_given_what_they_need_and_it_suffices(home: Path) -> None:
    root = home / "artifacts"
    deploy(home, chart(home))
    done = run(home, "base_model", "stimuli", "persona_centroids")
    assert done.returncode == 0, done.stderr[-3000:]
    jobs = pods(home)
    assert set(jobs) == {"base_model", "stimuli", "persona_centroids"}
    for asset, job in jobs.items():
        spec, pod = container(job), job["spec"]["template"]["spec"]
        assert job["namespace"] == NAMESPACE
        assert spec["image"] == "registry.example.org/leakage_assets:0.1.0"
        assert spec["imagePullPolicy"] == "IfNotPresent"
        assert spec["args"] == ["dagster", "api", "execute_step"]
        assert {"name": "artifacts", "mountPath": str(root)} in spec["volumeMounts"]
        assert {"name": "artifacts", "persistentVolumeClaim": {"claimName": "leakage-artifacts"}} in pod["volumes"]
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
        told = {entry["name"]: entry.get("value") for entry in spec["env"]}
        assert told["LEAKAGE_EXECUTOR"] == "k8s" and told["LEAKAGE_ARTIFACTS"] == str(root)
        assert told[EXPECTED] == store_id(root)
        needs_gpu = asset == "persona_centroids"
        assert spec.get("resources", {}).get("limits", {}) == ({"nvidia.com/gpu": "1"} if needs_gpu else {})
        assert told.get("CUDA_VISIBLE_DEVICES", "all") == ("all" if needs_gpu else "")
    assert (root / NAME / "marker_leakage" / "persona_centroids").is_dir()
    seen = [json.loads(line) for line in (home / "hook" / "steps").read_text().splitlines()]
    assert {told["step"].rpartition("__")[2] for told in seen} == set(jobs)


def test_the_example_has_the_claim_that_its_pods_mount(home: Path) -> None:
    claim = yaml.safe_load((EXAMPLE / "claim.yaml").read_text())
    model = kubernetes.client.V1PersistentVolumeClaim
    assert (claim.pop("kind"), claim.pop("apiVersion")) == ("PersistentVolumeClaim", "v1")
    assert k8s_model_from_dict(model, k8s_snake_case_dict(model, claim)).spec.access_modes == ["ReadWriteMany"]
    (deployment,) = chart(home)["dagster-user-deployments"]["deployments"]
    mounted = [volume["persistentVolumeClaim"] for volume in deployment["volumes"] if "persistentVolumeClaim" in volume]
    assert mounted == [{"claimName": claim["metadata"]["name"]}]


def test_a_pod_without_the_volume_says_so(home: Path) -> None:
    values = chart(home)
    (deployment,) = values["dagster-user-deployments"]["deployments"]
    elsewhere = {"LEAKAGE_ARTIFACTS": str(home / "not-mounted")}
    deployment["env"] = [
        {**entry, "value": elsewhere.get(entry["name"], entry["value"])} for entry in deployment["env"]
    ]
    deploy(home, values)
    assert run(home, "stimuli").returncode == 1
    with dg.DagsterInstance.from_config(str(home / "home")) as instance:
        (failed,) = instance.get_runs()
        errors = [
            record.event_log_entry.dagster_event.step_failure_data.error.to_string()
            for record in instance.get_records_for_run(failed.run_id).records
            if record.event_log_entry.dagster_event and record.event_log_entry.dagster_event.is_step_failure
        ]
    expected = store_id(home / "artifacts")
    assert len(errors) == 1
    assert f"{home / 'not-mounted'} on " in errors[0] and f"holds no store, the run uses store {expected}" in errors[0]
    assert not (home / "not-mounted").exists()
