"""HTTP requests to this pack's routes: bodies of bounded size, answers without stack traces."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import host

log = logging.getLogger("my3dgen")


@dataclass(frozen=True)
class Answer:
    """Response of a route."""

    status: int
    """HTTP status."""
    kind: str
    """Content type."""
    body: bytes

    @classmethod
    def error(cls, status: int, message: str) -> Answer:
        """Return a JSON response with an error message."""
        return cls.json({"error": message}, status)

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Answer:
        """Return a JSON response, see `host.sendable`."""
        return cls(status, "application/json", json.dumps(host.sendable(value), allow_nan=False).encode())


def handler(answer: Callable[[bytes], Awaitable[Answer]], limit: int = 0) -> Callable[[Any], Any]:
    """Return a handler for aiohttp.

    A body must be of type application/json: a page of another site cannot send that without a CORS preflight.

    Args:
        answer: coroutine function from the body to the response.
        limit: largest size of the body in bytes; 0: no body is read.
    """

    async def handle(request: Any) -> Any:
        from aiohttp import web

        try:
            try:
                body = await _read(request.content, limit + 1) if limit else b""
            except (web.RequestPayloadError, OSError) as error:
                # Cut off, or not compressed as its headers say: the client's fault, and it may be gone.
                host.log.debug("%s: the body cannot be read: %s", request.path, error)
                request.content.feed_eof()  # else the server reads the rest too, and logs the same failure
                return _response(Answer.error(400, "The body of this request cannot be read."))
            if len(body) > limit:
                found = Answer.error(413, f"A request may have at most {limit} bytes.")
            elif limit and request.content_type != "application/json":
                found = Answer.error(415, "A request must be of type application/json.")
            else:
                found = await answer(body)
        except Exception:  # details go to the log, not to the page
            log.exception("%s failed", request.path)
            found = Answer.error(500, "This failed; the server's log says why.")
        return _response(found)

    return handle


def query_handler(answer: Callable[[Mapping[str, str]], Awaitable[Answer]]) -> Callable[[Any], Any]:
    """Return a handler for aiohttp of requests without a body.

    Args:
        answer: coroutine function from the parameters of the address to the response.
    """

    async def handle(request: Any) -> Any:
        try:
            found = await answer(request.query)
        except Exception:  # details go to the log, not to the page
            log.exception("%s failed", request.path)
            found = Answer.error(500, "This failed; the server's log says why.")
        return _response(found)

    return handle


def _response(answer: Answer) -> Any:
    """Return an answer as the response of a handler."""
    from aiohttp import web

    headers = {"Cache-Control": "no-store"}
    return web.Response(status=answer.status, body=answer.body, content_type=answer.kind, headers=headers)


async def _read(stream: Any, limit: int) -> bytes:
    """Read at most `limit` bytes of a stream."""
    parts, size = [], 0
    while size < limit and (part := await stream.read(limit - size)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)
