"""A client's fault is an answer of 4xx, and nothing of it reads like a fault of the server in the log."""

from __future__ import annotations

import asyncio
import gzip
import logging
import sys
from types import ModuleType
from typing import Any

import pytest
from aiohttp import ClientSession, web

HEADERS = {"Content-Type": "application/json"}
LIMIT = 1000


def served(pack: ModuleType, use: Any) -> Any:
    """Run a coroutine function with the port of a server whose route /echo answers with the body's size."""
    http = sys.modules["my3dgen_pack.nodes.server.http"]

    async def size(body: bytes) -> Any:
        return http.Answer.json({"size": len(body)})

    async def run() -> Any:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/echo", http.handler(size, LIMIT))
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            return await use(runner.addresses[0][1])
        finally:
            await runner.cleanup()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", {}, 200),
        (gzip.compress(b"{}"), {"Content-Encoding": "gzip"}, 200),
        (b"xxxx", {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(bytes(1 << 24)), {"Content-Encoding": "gzip"}, 413),
        (bytes(LIMIT + 1), {}, 413),
    ],
)
def test_a_body_is_read_or_answered_as_the_clients_fault(
    pack: ModuleType, caplog: pytest.LogCaptureFixture, body: bytes, headers: dict[str, str], status: int
) -> None:
    async def post(port: int) -> int:
        async with (
            ClientSession() as session,
            session.post(f"http://127.0.0.1:{port}/echo", data=body, headers=HEADERS | headers) as answer,
        ):
            await answer.read()
            return answer.status

    assert served(pack, post) == status
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_dropped_connection_leaves_no_traceback(pack: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    async def drop(port: int) -> int:
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Content-Length: 600\r\n\r\n{"
            )
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()
        await asyncio.sleep(0.3)
        return port

    caplog.set_level(logging.DEBUG)
    served(pack, drop)
    told = [record.getMessage() for record in caplog.records if "cannot be read" in record.getMessage()]
    assert len(told) == 5
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
