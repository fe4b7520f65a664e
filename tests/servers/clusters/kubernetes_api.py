"""A stand-in for Kubernetes's API server: the discovery pages and single objects that kubectl reads, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

RAY = "/apis/ray.io/v1"
VERBS = ["create", "delete", "get", "list", "patch"]


@dataclass
class Api:
    """What the server answers.

    Args:
        kubeconfig: file that leads kubectl to it.
        operator: whether it knows RayClusters.
        forbidden: whether every object is refused.
        objects: by path.
        requests: method and path of what it was asked.
    """

    kubeconfig: Path
    operator: bool = True
    forbidden: bool = False
    objects: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def answer(self, method: str, path: str) -> tuple[int, Mapping[str, Any]]:
        """Return status and body."""
        self.requests.append((method, path))
        if path in (pages := self._pages()):
            return 200, pages[path]
        if self.forbidden:
            return 403, _status(403, "Forbidden", 'rayclusters.ray.io "lab" is forbidden: User "me" cannot get it')
        if path in self.objects:
            return 200, self.objects.pop(path) if method == "DELETE" else self.objects[path]
        return 404, _status(404, "NotFound", f"{path} not found")

    def _pages(self) -> Mapping[str, Mapping[str, Any]]:
        version = {"groupVersion": "ray.io/v1", "version": "v1"}
        ray = {"name": "ray.io", "versions": [version], "preferredVersion": version}
        groups = [ray] if self.operator else []
        core = [_resource("secrets", "Secret"), _resource("pods", "Pod"), _resource("services", "Service")]
        pages: dict[str, Mapping[str, Any]] = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": core},
        }
        if self.operator:
            resources = [_resource("rayclusters", "RayCluster")]
            pages[RAY] = {"kind": "APIResourceList", "groupVersion": "ray.io/v1", "resources": resources}
        return pages


@contextmanager
def kubernetes_api(folder: Path) -> Iterator[Api]:
    """Run the server, and write a kubeconfig that leads to it."""
    api = Api(folder / "kubeconfig")

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            status, body = api.answer(self.command, urlsplit(self.path).path)
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_DELETE = _reply

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        write_kubeconfig(api.kubeconfig, server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield api
        server.shutdown()


def write_kubeconfig(file: Path, port: int) -> None:
    """Write a kubeconfig for a server at a port of the loopback."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "home"}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "me", "user": {}}],
    }
    file.write_text(json.dumps(content))


def _resource(name: str, kind: str) -> Mapping[str, Any]:
    return {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": VERBS}


def _status(code: int, reason: str, message: str) -> Mapping[str, Any]:
    said = {"code": code, "reason": reason, "message": message}
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {}} | said
