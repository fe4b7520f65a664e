"""A job server that takes connections and then falls silent, as a machine does whose network is gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from aiohttp import web

OVER = web.AppKey("over", asyncio.Event)
"""Set when the silence may end."""


@contextmanager
def silent_job_server() -> Iterator[str]:
    """Run the server in a thread; yields its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner, address = asyncio.run_coroutine_threadsafe(_start(), loop).result(timeout=30)
    try:
        yield address
    finally:
        asyncio.run_coroutine_threadsafe(_end(runner), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _start() -> tuple[web.AppRunner, str]:
    application = web.Application()
    application[OVER] = asyncio.Event()
    application.router.add_get("/api/version", _version)
    application.router.add_get("/api/jobs/{job}/logs/tail", _log)
    application.router.add_get("/api/jobs/{job}", _nothing)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def _end(runner: web.AppRunner) -> None:
    runner.app[OVER].set()
    await runner.cleanup()


async def _version(_: web.Request) -> web.Response:
    return web.json_response({"version": "4", "ray_version": ray.__version__, "ray_commit": ""})


async def _log(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str("step 1/30 loss\n")
    await _nothing(request)
    return socket


async def _nothing(request: web.Request) -> web.Response:
    await request.app[OVER].wait()
    return web.Response()
