"""Invalid request bodies for the live preview route."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

BAD = [float("nan"), float("inf"), -float("inf"), 1e300, 10**400, True, "1", [], {}, [1], "../../etc/passwd"]


def hostile_bodies(handle: str, count: int = 200) -> list[bytes]:
    """Requests that must all be refused: each is a good one with something wrong in it."""
    draw = random.Random(0)
    makers: list[Callable[[], bytes]] = [
        lambda: draw.randbytes(draw.randrange(0, 400)),
        lambda: b"[" * draw.choice([10, 5_000, 60_000]),
        lambda: b'{"head": ' * 5_000,
        lambda: json.dumps(draw.choice([None, 3, "x", [], [{"head": handle}], True])).encode(),
        lambda: b'{"head": "' + b"a" * 70_000 + b'"}',
        lambda: json.dumps({"head": draw.choice(BAD)}).encode(),
        lambda: json.dumps({"head": draw.randbytes(16).hex()}).encode(),
        lambda: json.dumps({"head": handle, "path": "/etc/passwd"}).encode(),
        lambda: json.dumps(
            {"head": handle, draw.choice(["yaw", "pitch", "roll", "distance", "field_of_view"]): bad()}
        ).encode(),
        lambda: json.dumps({"head": handle, draw.choice(["quality", "aim"]): bad()}).encode(),
        lambda: json.dumps({"head": handle, "weights": bad()}).encode(),
        lambda: json.dumps({"head": handle, "weights": {"handle": handle, "values": [bad()]}}).encode(),
        lambda: json.dumps({"head": handle, "weights": {"handle": handle, "values": [1.0]}}).encode(),
        lambda: (
            json.dumps({"head": handle, "edits": draw.choice([bad(), [bad()], [{}] * 9])})
            .encode()
            .replace(b'"edits": []', b'"edits": 3')
        ),
        lambda: json.dumps({"head": handle, "edits": [{"handle": handle, "strength": 1.0}]}).encode(),
    ]

    def bad() -> Any:
        return draw.choice(BAD)

    return [draw.choice(makers)() for _ in range(count)]
