"""The configuration files of the cluster guide: they parse, Dagster accepts its own, and names agree between them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster._core.instance.ref import InstanceRef
from dagster_ray import RayRunLauncher

from sae_pipeline import __version__
from sae_pipeline.launcher.instance import POSTGRES_URL

DOCS = Path(__file__).resolve().parents[2] / "docs"
FOLDER = DOCS / "cluster"
MANIFESTS = ("kubernetes.yaml", "kuberay.yaml")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for name in MANIFESTS for document in documents(name) if document["kind"] == kind]


def inside(value: Any, key: str) -> list[Any]:
    """Every value under the key, at any depth."""
    if isinstance(value, list):
        return [found for item in value for found in inside(item, key)]
    if not isinstance(value, dict):
        return []
    return ([value[key]] if key in value else []) + [found for item in value.values() for found in inside(item, key)]


def test_the_page_names_every_file_and_every_file_parses() -> None:
    page = (DOCS / "cluster.md").read_text()
    for path in FOLDER.iterdir():
        assert f"cluster/{path.name}" in page
        if path.suffix == ".yaml":
            assert documents(path.name)


def test_dagster_accepts_the_instance_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POSTGRES_URL, "postgresql+psycopg2://nobody@127.0.0.1:1/none")
    ref = InstanceRef.from_dir(str(FOLDER))
    assert isinstance(ref.run_launcher, RayRunLauncher)
    assert ref.run_launcher.address == "http://sae-ray-head-svc:8265"
    assert ref.storage_data is not None
    assert ref.storage_data.class_name == "DagsterPostgresStorage"
    assert yaml.safe_load(ref.storage_data.config_yaml) == {"postgres_url": {"env": POSTGRES_URL}}


def test_the_instance_file_says_what_the_projects_own_says_besides_the_cluster() -> None:
    own = yaml.safe_load((DOCS.parent / "dagster.yaml").read_text())
    (there,) = documents("dagster.yaml")
    assert {key: there[key] for key in ("telemetry", "nux", "run_monitoring")} == {key: own[key] for key in ("telemetry", "nux", "run_monitoring")}
    assert there["concurrency"]["pools"]["granularity"] == own["concurrency"]["pools"]["granularity"]


def test_every_manifest_has_its_kind_and_a_name_that_kubernetes_takes() -> None:
    seen = set()
    for name in MANIFESTS:
        for document in documents(name):
            assert document["apiVersion"] in ("v1", "apps/v1", "ray.io/v1")
            assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", document["metadata"]["name"])
            seen.add((document["kind"], document["metadata"]["name"]))
    assert len(seen) == sum(len(documents(name)) for name in MANIFESTS)


def test_what_the_manifests_refer_to_is_declared() -> None:
    everything = [document for name in MANIFESTS for document in documents(name)]
    names = {
        kind: {document["metadata"]["name"] for document in of_kind(kind)} for kind in ("Secret", "ConfigMap", "PersistentVolumeClaim", "RayCluster")
    }
    assert {found["name"] for found in inside(everything, "configMapRef")} == names["ConfigMap"]
    assert {found["name"] for found in [*inside(everything, "secretRef"), *inside(everything, "secretKeyRef")]} == names["Secret"]
    assert {found["claimName"] for found in inside(everything, "persistentVolumeClaim")} == names["PersistentVolumeClaim"]
    assert {found["ray.io/cluster"] for found in inside(everything, "clusterSelector")} == names["RayCluster"]
    for document in [*of_kind("Deployment"), *of_kind("StatefulSet")]:
        labels = document["spec"]["template"]["metadata"]["labels"]
        assert document["spec"]["selector"]["matchLabels"] == labels
    served = {labels["app"] for labels in inside(everything, "labels")}
    assert {document["spec"]["selector"]["app"] for document in of_kind("Service")} <= served
    for pod in inside(everything, "containers"):
        for container in pod:
            assert {mount["name"] for mount in container["volumeMounts"]} <= {"home", "data"}


def test_secrets_and_settings_are_told_apart_and_one_image_serves_all() -> None:
    (secret,), (settings,) = of_kind("Secret"), of_kind("ConfigMap")
    assert POSTGRES_URL in secret["stringData"]
    assert not [name for name in settings["data"] if "PASSWORD" in name or name == POSTGRES_URL]
    assert f":{secret['stringData']['POSTGRES_PASSWORD']}@sae-postgres:5432/" in secret["stringData"][POSTGRES_URL]
    assert all(isinstance(value, str) for value in settings["data"].values())
    image = f"REGISTRY/sae-pipeline:{__version__}"
    ours = {found for name in MANIFESTS for found in inside(documents(name), "image") if "sae-pipeline" in found}
    assert ours == {image}
    assert documents("ray-cluster.yaml")[0]["docker"]["image"] == image
    assert image in (FOLDER / "Dockerfile").read_text()
    (launcher,) = inside(documents("dagster.yaml"), "env_vars")
    assert POSTGRES_URL not in launcher
    assert set(launcher) - set(settings["data"]) == {"SAE_STORE"}


def test_the_cluster_launchers_file_has_what_ray_asks_for() -> None:
    (cluster,) = documents("ray-cluster.yaml")
    assert cluster["head_node_type"] in cluster["available_node_types"]
    assert cluster["provider"]["type"] == "aws"
    assert cluster["max_workers"] == sum(kind["max_workers"] for kind in cluster["available_node_types"].values())
    assert any("ray start --head" in command for command in cluster["head_start_ray_commands"])
    assert any("ray start --address=$RAY_HEAD_IP:6379" in command for command in cluster["worker_start_ray_commands"])
