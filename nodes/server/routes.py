"""Our routes on ComfyUI's server: bodies of a bounded size, answers without stack traces."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("my3dgen")


@dataclass(frozen=True)
class Answer:
    """What a route gives back."""

    status: int
    kind: str
    body: bytes

    @classmethod
    def sentence(cls, status: int, text: str) -> Answer:
        return cls.json({"error": text}, status)

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Answer:
        return cls(status, "application/json", json.dumps(value).encode())


def handler(answer: Callable[[bytes], Awaitable[Answer]], limit: int = 0) -> Callable[[Any], Any]:
    """A handler for aiohttp: `answer` gets the body, of at most `limit` bytes; 0 means that none is read.

    A body must be called JSON: another site's page cannot send that without asking first.
    """

    async def handle(request: Any) -> Any:
        from aiohttp import web

        try:
            body = await _read(request.content, limit + 1) if limit else b""
            if len(body) > limit:
                found = Answer.sentence(413, f"A request may have at most {limit} bytes.")
            elif limit and request.content_type != "application/json":
                found = Answer.sentence(415, "A request must be of type application/json.")
            else:
                found = await answer(body)
        except Exception:  # the border: what went wrong is for the log, not for the page
            log.exception("%s failed", request.path)
            found = Answer.sentence(500, "This failed; the server's log says why.")
        return web.Response(
            status=found.status,
            body=found.body,
            content_type=found.kind,
            headers={"Cache-Control": "no-store"},
        )

    return handle


async def _read(stream: Any, most: int) -> bytes:
    """The first `most` bytes of a stream."""
    parts, size = [], 0
    while size < most and (part := await stream.read(most - size)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)
