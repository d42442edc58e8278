"""Registry behind the live previews: heads, mixtures and edits by unguessable handles."""

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
"""Largest number of handles, and of the bytes behind them."""
BETA = 1.01
"""`AlphaSpace.beta` of a mixture: it admits every weight that a request may contain."""
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Head:
    """A head of a Render Head node."""

    model: weakref.ref[socket_types.Model]
    """The node's model; a preview must not keep its weights in memory."""
    ws: Tensor
    """The latent, [1, num_ws, w_dim]."""

    @property
    def nbytes(self) -> int:
        """Bytes of the latent."""
        return self.ws.nbytes


@dataclass(frozen=True, eq=False)
class Mixture:
    """Anchors of an identity, to be mixed by weights."""

    anchors: Latents

    @property
    def nbytes(self) -> int:
        """Bytes of the anchors."""
        return self.anchors.ws.nbytes

    def mixed(self, weights: tuple[float, ...]) -> Latents:
        """Return the latent and camera that Mix Anchors makes with these weights.

        Raises:
            RequestError: 400, there is not one weight per anchor.
        """
        from ...my3dgen_core import AlphaSpace

        if len(weights) != len(self.anchors):
            raise RequestError(400, f"There are {len(self.anchors)} anchors, but {len(weights)} weights.")
        amounts = torch.tensor([weights], dtype=torch.float64)
        return AlphaSpace(self.anchors, BETA).combine(amounts / amounts.sum())


@dataclass(frozen=True, eq=False)
class Edit:
    """An edit along a direction, with the settings of an Apply Direction node."""

    ws: Tensor
    """The node's own latent, [1, num_ws, w_dim]."""
    direction: Direction
    layers: list[int] | None
    """Rows of the latent that move; None: all."""
    within: AlphaSpace | None
    """Alpha space that the edit should not leave, or None."""
    edge: str
    """Behavior at the border of the alpha space, as in `Direction.apply`."""

    @property
    def nbytes(self) -> int:
        """Bytes of the latents."""
        anchors = 0 if self.within is None else self.within.anchors.ws.nbytes
        return self.ws.nbytes + anchors

    def applied(self, ws: Tensor, strength: float) -> Tensor:
        """Return ws [1, num_ws, w_dim], edited with this strength."""
        return self.direction.apply(ws, strength, self.layers, within=self.within, edge=self.edge)


class Handles:
    """Items by unguessable handles, bounded in number and bytes; the least recently used is dropped first.

    Thread-safe.
    """

    def __init__(self, count: int = COUNT, nbytes: int = NBYTES) -> None:
        self.count, self.nbytes = count, nbytes
        self._items: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.RLock()  # reentrant: the garbage collector may call `_drop` inside any method

    def __len__(self) -> int:
        return len(self._items)

    def give(self, item: Any, owner: object) -> str:
        """Return a new handle.

        Args:
            item: a Head, Mixture or Edit; anything with `nbytes`.
            owner: object with whose end the handle is dropped.
        """
        handle = secrets.token_urlsafe(16)
        with self._lock:
            self._items[handle] = item
            while len(self._items) > self.count or (len(self._items) > 1 and self._bytes() > self.nbytes):
                self._items.popitem(last=False)
        weakref.finalize(owner, self._drop, handle).atexit = False
        return handle

    def find(self, handle: str, kind: type[T]) -> T:
        """Return the item of a handle.

        Raises:
            RequestError: 404, the handle is unknown or its item is of another kind.
        """
        with self._lock:
            item = self._items.get(handle)
            if not isinstance(item, kind):
                raise RequestError(
                    404, "This preview is not known here (any more). Queue the workflow again."
                )
            self._items.move_to_end(handle)
            return item

    def _bytes(self) -> int:
        return sum(item.nbytes for item in self._items.values())

    def _drop(self, handle: str) -> None:
        with self._lock:
            self._items.pop(handle, None)
