"""KubeRay's clusters through the real kubectl, against no API server or a small stand-in for one."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from kubernetes_api import Api, kubernetes_api, write_kubeconfig
from processes import free_ports

from orchestrator.cluster.findings import ClusterError
from orchestrator.cluster.launch.kuberay import (
    READY,
    KubeRayLauncher,
    check_manifest,
    explain,
    is_ready,
    kuberay_name,
    secret_name,
    service_name,
    token_in,
)
from orchestrator.config.cluster import Cluster

Make = Callable[..., Cluster]
MANIFEST: Mapping[str, Any] = {
    "apiVersion": "ray.io/v1",
    "kind": "RayCluster",
    "metadata": {"name": "lab", "namespace": "science"},
    "spec": {"authOptions": {"mode": "token"}},
}
PLACE = "/apis/ray.io/v1/namespaces/science/rayclusters/lab"
READY_STATUS = {"conditions": [{"type": "HeadPodReady", "status": "True"}], "head": {"serviceName": "lab-head"}}
FILE = Path("lab.yaml")

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with kubernetes_api(tmp_path) as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig))
        yield running


@pytest.fixture
def launcher(make_cluster: Make) -> KubeRayLauncher:
    cluster = make_cluster("kuberay", MANIFEST)
    cluster.file.write_text(json.dumps(MANIFEST))
    return KubeRayLauncher(cluster)


@needs_kubectl
def test_its_head_is_asked_for_in_its_namespace(api: Api, launcher: KubeRayLauncher) -> None:
    assert not launcher.is_up()
    api.objects[PLACE] = MANIFEST
    assert not launcher.is_up()
    api.objects[PLACE] = {**MANIFEST, "status": READY_STATUS}
    assert launcher.is_up()
    assert ("GET", PLACE) in api.requests


@needs_kubectl
def test_down_deletes_what_the_file_made(api: Api, launcher: KubeRayLauncher) -> None:
    api.objects[PLACE] = {**MANIFEST, "status": READY_STATUS}
    lines: list[object] = []
    launcher.down(lines.append)
    assert ("DELETE", PLACE) in api.requests
    assert "deleted" in str(lines[0])
    launcher.down(lines.append)
    assert lines[1:] == ["cluster lab is not up"]


@needs_kubectl
def test_reaching_one_without_its_secret_or_itself_is_refused(api: Api, launcher: KubeRayLauncher) -> None:
    with pytest.raises(ClusterError, match="cluster lab is not up; start it with"):
        launcher.connect().__enter__()
    api.objects[PLACE] = {**MANIFEST, "status": READY_STATUS}
    with pytest.raises(ClusterError, match="Secret lab holds no token under auth_token"):
        launcher.connect().__enter__()


@needs_kubectl
def test_a_way_that_cannot_be_opened_is_said_in_kubectls_words(api: Api, launcher: KubeRayLauncher) -> None:
    api.objects[PLACE] = {**MANIFEST, "status": READY_STATUS}
    secret = {"auth_token": base64.b64encode(b"abc").decode()}
    api.objects["/api/v1/namespaces/science/secrets/lab"] = {"apiVersion": "v1", "kind": "Secret", "data": secret}
    with pytest.raises(ClusterError, match=r"the port-forward to the head of cluster lab cannot be opened: .*NotFound"):
        launcher.connect().__enter__()
    assert ("GET", "/api/v1/namespaces/science/services/lab-head") in api.requests


@needs_kubectl
def test_a_kubernetes_without_the_operator_or_the_right_is_said(api: Api, launcher: KubeRayLauncher) -> None:
    api.operator = False
    with pytest.raises(ClusterError, match="does not know RayCluster; install the KubeRay operator"):
        launcher.is_up()
    api.operator, api.forbidden = True, True
    with pytest.raises(ClusterError, match="your account may not do this there"):
        launcher.is_up()


@needs_kubectl
@pytest.mark.parametrize("configured", [True, False])
def test_no_kubernetes_is_said_soon(
    launcher: KubeRayLauncher, configured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    if configured:
        write_kubeconfig(tmp_path / "kubeconfig", free_ports(1)[0])
    with pytest.raises(ClusterError, match="cluster lab: no Kubernetes cluster answers; see `kubectl config current"):
        launcher.is_up()
    with pytest.raises(ClusterError, match="no Kubernetes cluster answers"):
        launcher.up(print)


def test_no_kubectl_is_said(launcher: KubeRayLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ClusterError, match="cluster lab needs the program kubectl, which is not on the path; install it"
    ):
        launcher.is_up()


def test_a_job_is_no_cluster_to_start(make_cluster: Make) -> None:
    job = KubeRayLauncher(make_cluster("kuberay", {**MANIFEST, "kind": "RayJob"}))
    for attempt in (job.up, job.down, lambda _: job.connect().__enter__()):
        with pytest.raises(ClusterError, match=r"a RayJob makes its own cluster .* start it with `kubectl apply -f"):
            attempt(print)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (None, "would not require a token"),
        ({"mode": "disabled"}, "would not require a token"),
        ({"mode": "token", "enableK8sTokenAuth": True}, "leave that key out"),
    ],
)
def test_a_cluster_without_its_own_token_is_refused(options: Mapping[str, Any] | None, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        check_manifest({**MANIFEST, "spec": {"authOptions": options}}, FILE)


def test_names_are_kuberays() -> None:
    assert secret_name(MANIFEST) == "lab"
    assert secret_name({**MANIFEST, "spec": {"authOptions": {"mode": "token", "secretName": "mine"}}}) == "mine"
    assert service_name(MANIFEST) == "lab-head-svc"
    assert service_name({**MANIFEST, "status": READY_STATUS}) == "lab-head"
    assert kuberay_name("x" * 60) == "x" * 50
    assert kuberay_name("1lab") == "rlab"


def test_readiness_and_tokens_are_read() -> None:
    assert is_ready({"status": READY_STATUS})
    assert not is_ready({"status": {"conditions": [{"type": "HeadPodReady", "status": "False"}]}})
    assert token_in({"data": {"auth_token": base64.b64encode(b"abc\n").decode()}}, "lab") == "abc"
    for damaged in (None, {}, {"data": {}}, {"data": {"auth_token": "?"}}, {"data": {"auth_token": ""}}):
        with pytest.raises(ClusterError, match="Secret lab holds no token"):
            token_in(damaged, "lab")


def test_the_port_that_kubectl_chose_is_found() -> None:
    found = READY.search("Forwarding from 127.0.0.1:41233 -> 8265\n")
    assert found is not None
    assert found[1] == "41233"


def test_what_nobody_foresaw_is_passed_on() -> None:
    assert explain("E0101 12:00:00 noise\nerror: a strange thing") == "kubectl says: error: a strange thing"
    assert explain("") == "kubectl says: nothing"
