"""LEAKAGE_EXECUTOR: the three executors, and what is said about a fourth or about a missing package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster_postgres.event_log import PostgresEventLogStorage

from leakage_assets.executor.choice import EXECUTOR, chosen_executor
from leakage_assets.executor.on_ray import require_shared_events
from leakage_assets.executor.remote import ExecutorError
from leakage_assets.paths import REPO
from leakage_assets_tests.orchestration.deployment import free_port


@pytest.mark.parametrize(("name", "executor"), [(None, "gpu"), ("local", "gpu"), ("ray", "ray"), ("k8s", "k8s")])
def test_the_environment_chooses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str | None, executor: str
) -> None:
    if name is None:
        monkeypatch.delenv(EXECUTOR, raising=False)
    else:
        monkeypatch.setenv(EXECUTOR, name)
    assert chosen_executor(tmp_path).name == executor


def test_an_unknown_executor_is_answered_with_the_known_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(EXECUTOR, "slurm")
    with pytest.raises(ExecutorError, match=r"LEAKAGE_EXECUTOR=slurm: no such executor; executors: local, ray, k8s$"):
        chosen_executor(tmp_path)


@pytest.mark.parametrize(
    ("name", "package"), [("ray", "dagster_ray"), ("ray", "ray.job_submission"), ("k8s", "dagster_k8s")]
)
def test_a_missing_package_is_answered_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, package: str
) -> None:
    monkeypatch.setenv(EXECUTOR, name)
    monkeypatch.setitem(sys.modules, package, None)
    for module in ("on_ray", "on_kubernetes"):
        monkeypatch.delitem(sys.modules, f"leakage_assets.executor.{module}", raising=False)
    with pytest.raises(ExecutorError) as error:
        chosen_executor(tmp_path)
    assert f"LEAKAGE_EXECUTOR={name}: " in str(error.value) and package in str(error.value)
    assert f"pip install --constraint constraints.txt --editable '.[{name}]'" in str(error.value)


@pytest.mark.parametrize(("name", "absent"), [("local", {"ray", "kubernetes"}), ("k8s", {"ray"}), ("ray", {"torch"})])
def test_only_the_chosen_executor_is_imported(name: str, absent: set[str]) -> None:
    code = "import sys, leakage_assets.definitions as d; print(d.tiny.executor.name, *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=REPO, env={**os.environ, EXECUTOR: name},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    executor, *modules = done.stdout.split()
    assert executor == {"local": "gpu"}.get(name, name)
    assert absent.isdisjoint(modules)


def test_ray_without_a_cluster_says_what_to_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(EXECUTOR, "ray")
    monkeypatch.setenv("RAY_ADDRESS", f"http://127.0.0.1:{free_port()}")
    executor = chosen_executor(tmp_path)
    job = InMemoryJob(dg.GraphDefinition("empty").to_job())
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.InitExecutorContext(job, executor, {"ray": {}, "retries": {"enabled": {}}}, instance)
        with pytest.raises(ExecutorError, match=r"LEAKAGE_EXECUTOR=ray: Failed to connect .* say in RAY_ADDRESS where"):
            executor.executor_creation_fn(context)


def test_sqlite_is_refused_where_steps_run_on_other_hosts(tmp_path: Path) -> None:
    own, other = "127.0.0.1", "192.0.2.7"  # RFC 5737: an address that no host has
    with dg.DagsterInstance.local_temp(str(tmp_path)) as on_sqlite:
        require_shared_events(on_sqlite, [own, own])
        with pytest.raises(ExecutorError, match=rf"nodes on other hosts \({other}\).* use PostgreSQL"):
            require_shared_events(on_sqlite, [own, other])


def test_another_database_is_not_refused() -> None:
    postgres = SimpleNamespace(event_log_storage=PostgresEventLogStorage.__new__(PostgresEventLogStorage))
    require_shared_events(cast("dg.DagsterInstance", postgres), ["192.0.2.7"])


def test_kubernetes_without_kubernetes_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(EXECUTOR, "k8s")
    executor = chosen_executor(tmp_path)
    job = InMemoryJob(dg.GraphDefinition("empty").to_job())
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.InitExecutorContext(job, executor, {}, instance)
        with pytest.raises(
            ExecutorError, match=r"need runs in Kubernetes \(K8sRunLauncher\): see docs/kubernetes/README\.md"
        ):
            executor.executor_creation_fn(context)
