"""What live pictures are made of, and the names under which the page may ask for them."""

from __future__ import annotations

import secrets
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from .live_request import RequestError

if TYPE_CHECKING:
    from ...my3dgen_core import AlphaSpace, Direction, Latents
    from .. import socket_types

COUNT, NBYTES = 64, 64 << 20
MOST_OUTSIDE = 1.01  # below 0: any weight that a request may hold
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Head:
    """A head as a Render node shows it: ws [1, num_ws, w_dim], and the model as long as it lives."""

    model: weakref.ref[socket_types.Model]
    ws: Tensor

    @property
    def nbytes(self) -> int:
        return self.ws.nbytes


@dataclass(frozen=True, eq=False)
class Mixture:
    """The anchors of a person."""

    anchors: Latents

    @property
    def nbytes(self) -> int:
        return self.anchors.ws.nbytes

    def mixed(self, weights: tuple[float, ...]) -> Latents:
        """The anchors mixed with these weights, one latent, and the camera as Mix Anchors mixes it."""
        from ...my3dgen_core import AlphaSpace

        if len(weights) != len(self.anchors):
            raise RequestError(400, f"There are {len(self.anchors)} anchors, but {len(weights)} weights.")
        amounts = torch.tensor([weights], dtype=torch.float64)
        return AlphaSpace(self.anchors, MOST_OUTSIDE).combine(amounts / amounts.sum())


@dataclass(frozen=True, eq=False)
class Edit:
    """An edit along a direction, of ws [1, num_ws, w_dim], as an Apply Direction node is set."""

    ws: Tensor
    direction: Direction
    layers: list[int] | None
    within: AlphaSpace | None
    edge: str

    @property
    def nbytes(self) -> int:
        anchors = 0 if self.within is None else self.within.anchors.ws.nbytes
        return self.ws.nbytes + anchors

    def applied(self, ws: Tensor, strength: float) -> Tensor:
        """ws [1, num_ws, w_dim], edited."""
        return self.direction.apply(ws, strength, self.layers, within=self.within, edge=self.edge)


class Handles:
    """Things by names that nobody can guess, bounded in number and bytes: the least recently used one goes.

    Safe from several threads.
    """

    def __init__(self, count: int = COUNT, nbytes: int = NBYTES) -> None:
        self.count, self.nbytes = count, nbytes
        self._things: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.RLock()  # the garbage collector may come back into it through `_drop`

    def __len__(self) -> int:
        return len(self._things)

    def give(self, thing: Any, owner: object) -> str:
        """A new handle for `thing` (it has `nbytes`), which ends with its owner."""
        handle = secrets.token_urlsafe(16)
        with self._lock:
            self._things[handle] = thing
            while len(self._things) > self.count or (len(self._things) > 1 and self._bytes() > self.nbytes):
                self._things.popitem(last=False)
        weakref.finalize(owner, self._drop, handle).atexit = False
        return handle

    def find(self, handle: str, kind: type[T]) -> T:
        """The thing of this kind.

        Raises:
            RequestError: 404, there is none, or it is of another kind.
        """
        with self._lock:
            thing = self._things.get(handle)
            if not isinstance(thing, kind):
                raise RequestError(
                    404, "This preview is not known here (any more). Queue the workflow again."
                )
            self._things.move_to_end(handle)
            return thing

    def _bytes(self) -> int:
        return sum(thing.nbytes for thing in self._things.values())

    def _drop(self, handle: str) -> None:
        with self._lock:
            self._things.pop(handle, None)
