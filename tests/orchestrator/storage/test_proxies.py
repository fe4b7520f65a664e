"""Proxies of the environment, which answer nothing here, and servers on the loopback."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import requests
from mlflow_server import MlflowServer
from processes import free_ports
from s3_server import S3Server

from orchestrator.storage.location import locate
from orchestrator.storage.proxies import keep_loopback_direct, loopback_exceptions
from orchestrator.track.client import connect

NAMES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy", "grpc_proxy")
DIRECT = "localhost,127.0.0.1,127.0.0.0/8,::1,[::1]"


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a proxy that is not there."""
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    for name in NAMES:
        monkeypatch.setenv(name, address)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    return address


def test_without_a_proxy_nothing_is_set() -> None:
    assert loopback_exceptions({"no_proxy": "internal", "HTTPS_PROXY": ""}) == {}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, DIRECT),
        ({"NO_PROXY": "internal, .lab"}, f"internal,.lab,{DIRECT}"),
        ({"no_proxy": "internal"}, f"internal,{DIRECT}"),
        ({"no_proxy": "*"}, "*"),
        ({"no_proxy": DIRECT}, DIRECT),
    ],
)
def test_the_users_own_exceptions_stay(given: dict[str, str], kept: str) -> None:
    assert loopback_exceptions({"HTTP_PROXY": "http://p:1", **given}) == {"no_proxy": kept, "NO_PROXY": kept}


def test_of_different_lists_each_stays() -> None:
    given = {"grpc_proxy": "http://p:1", "no_proxy": "a", "NO_PROXY": "b", "no_grpc_proxy": "c"}
    kept = {name: f"{value},{DIRECT}" for name, value in given.items() if name != "grpc_proxy"}
    assert loopback_exceptions(given) == kept


def test_other_hosts_keep_their_proxy(proxy: str) -> None:
    keep_loopback_direct()
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get("http://fuseray.invalid", timeout=5)


def test_an_mlflow_on_the_loopback_is_asked_directly(proxy: str, mlflow_on_sqlite: MlflowServer) -> None:
    assert connect(mlflow_on_sqlite.uri).search_experiments(max_results=1)


def test_an_object_store_on_the_loopback_is_asked_directly(
    proxy: str, seaweedfs_server: S3Server, log_in: Callable[[S3Server], None]
) -> None:
    log_in(seaweedfs_server)
    keep_loopback_direct()
    file = locate(f"s3://{seaweedfs_server.make_bucket()}/file", seaweedfs_server.endpoint)
    file.write(b"content")
    assert file.read() == b"content"
    file.delete()
    assert not file.exists()


def test_grpc_on_the_loopback_is_asked_directly(proxy: str) -> None:
    keep_loopback_direct()
    server = grpc.server(ThreadPoolExecutor(1))
    echo = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    server.add_registered_method_handlers("echo", {"say": echo})
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", {"say": echo}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert channel.unary_unary("/echo/say")(b"hello", timeout=10) == b"hello"
    server.stop(None)
