"""Live previews: small frames of a head for the widgets on the page, rendered while the user drags.

An executed node publishes a handle (`publish`); the page sends it back with numbers. A request contains
nothing else: no path, no file name, no tensor.
"""

from __future__ import annotations

import asyncio
import copy
import weakref
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import host, socket_types
from ..camera.camera import cameras_from
from .http import Answer, handler
from .live_handles import Edit, Handles, Head, Mixture
from .live_request import BODY_LIMIT, Request, RequestError, parse

if TYPE_CHECKING:
    from ...my3dgen_core import Generator

PLANES = 4
"""Number of latents whose planes are kept."""
DRAG_PIXELS, DRAG_SAMPLES = 64, 16
"""Side and samples per ray of pictures while dragging, which skip the super-resolution."""
STILL_PIXELS = 256
"""Largest side of pictures at rest, which are rendered in full and shrunk."""
BUSY = "A prompt is running: live previews return when it is done."
STALE = "A newer request replaced this one."


class _PersonalizedCopy:
    """A copy of a model's generator with its identities applied permanently.

    The copy shares every weight with the model but no module, so that nodes may apply and remove identities
    meanwhile. Not thread-safe.
    """

    def __init__(self, model: socket_types.Model) -> None:
        from ...my3dgen_core import personalized

        with model.untouched() as shared:
            if shared is None:
                raise RequestError(503, BUSY)
            self.device = socket_types.device_of(shared)
            weights = (*shared.parameters(), *shared.buffers())
            self.generator: Generator = copy.deepcopy(shared, {id(weight): weight for weight in weights})
        self.exact = self.generator.config
        self.small = replace(
            self.exact,
            depth_resolution=min(DRAG_SAMPLES, self.exact.depth_resolution),
            depth_resolution_importance=min(DRAG_SAMPLES, self.exact.depth_resolution_importance),
        )
        self.planes: OrderedDict[Any, Tensor] = OrderedDict()
        self._applied = ExitStack()  # never closed: the identities stay applied to the copy
        identities = [applied.identity for applied in model.identities]
        strengths = [applied.strength for applied in model.identities]
        self._applied.enter_context(personalized(self.generator, identities, strengths))

    def picture(self, key: Any, ws: Tensor, camera: Tensor, drag: bool) -> Tensor:
        """Render one picture; the planes of the last few latents are cached.

        Quality "fast" first computes density bounds of the planes, which pays off from the second picture on.

        Args:
            key: hashable name of the latent.
            ws: [1, num_ws, w_dim].
            camera: [1, 25].
            drag: fewer pixels and samples, for pictures while dragging.

        Returns:
            [1, 3, h, w] in [-1, 1].
        """
        ws, camera = ws.to(self.device), camera.to(self.device)
        quality = "fast" if key in self.planes else "exact"
        if key not in self.planes:
            self.planes[key] = self.generator.planes(ws)
            if len(self.planes) > PLANES:
                self.planes.popitem(last=False)
        self.planes.move_to_end(key)
        planes = self.planes[key]
        if not drag:
            self.generator.config = self.exact
            image = self.generator.render(ws, camera, planes=planes, quality=quality).image
            size = min(STILL_PIXELS, image.shape[-1])
            return torch.nn.functional.interpolate(image, (size, size), mode="area")
        self.generator.config = self.small
        pixels = min(DRAG_PIXELS, self.exact.neural_resolution)
        features = self.generator.march(planes, camera, pixels, quality=quality).features
        return features.transpose(1, 2).unflatten(2, (pixels, pixels))[:, :3]


class LivePreviewServer:
    """Renders previews one at a time in a thread of its own; of each handle, only the newest request."""

    def __init__(self, handles: Handles) -> None:
        self.handles = handles
        self._thread = ThreadPoolExecutor(1, "my3dgen-live")
        self._newest: weakref.WeakKeyDictionary[Head, object] = weakref.WeakKeyDictionary()
        self._copy: tuple[weakref.ref[Head], _PersonalizedCopy] | None = None

    async def answer(self, body: bytes) -> Answer:
        """Answer a request with a JPEG, or with an error message."""
        try:
            request = parse(body)
            head = self.handles.find(request.head, Head)
            if host.busy():
                raise RequestError(503, BUSY)
            ticket = object()
            self._newest[head] = ticket
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._draw, head, request, ticket)
        except RequestError as error:
            return Answer.error(error.status, str(error))

    def _draw(self, head: Head, request: Request, ticket: object) -> Answer:
        if self._newest.get(head) is not ticket:
            raise RequestError(409, STALE)
        if host.busy():
            raise RequestError(503, BUSY)
        try:
            with host.rendering():
                picture = self._copy_of(head).picture(*self._latent(head, request), request.drag)
        except ValueError as error:  # the core's own message, such as for a direction of another generator
            raise RequestError(400, str(error)) from error
        except RuntimeError as error:  # such as out of memory, or weights moved to another device meanwhile
            self._copy = None
            host.log.warning("live preview: %s", error)
            raise RequestError(503, "No live preview at the moment. Move again.") from error
        return Answer(200, "image/jpeg", host.jpeg(picture))

    def _copy_of(self, head: Head) -> _PersonalizedCopy:
        """Return the personalized copy of a head's model; the last one is kept."""
        model = head.model()
        if model is None:
            raise RequestError(410, "The model of this preview is gone. Queue the workflow again.")
        kept = self._copy
        if kept is None or kept[0]() is not head or kept[1].device != socket_types.device_of(model.generator):
            # The copy is dropped with its head, so that it does not keep the model's weights in memory.
            kept = weakref.ref(head, lambda _: self._forget()), _PersonalizedCopy(model)
            self._copy = kept
        return kept[1]

    def _forget(self) -> None:
        self._copy = None

    def _latent(self, head: Head, request: Request) -> tuple[Any, Tensor, Tensor]:
        """Return a key that identifies the latent, the latent [1, num_ws, w_dim], and the camera [1, 25]."""
        model = head.model()
        camera = cameras_from(**request.camera, model=model if request.aim == "model" else None)
        ws, key = head.ws, (request.weights, request.edits)
        if request.weights is not None:
            mixed = self.handles.find(request.weights[0], Mixture).mixed(request.weights[1])
            ws = mixed.ws
            if request.aim == "anchors" and mixed.cameras is not None:
                camera = mixed.cameras
        for place, (handle, strength) in enumerate(request.edits):
            edit = self.handles.find(handle, Edit)
            ws = edit.applied(edit.ws if place == 0 and request.weights is None else ws, strength)
        if ws.shape != head.ws.shape:
            raise RequestError(400, "The latent belongs to another generator than the model.")
        return key, ws, camera


HANDLES = Handles()
SERVER = LivePreviewServer(HANDLES)


def publish(item: Head | Mixture | Edit, owner: object, **more: Any) -> dict[str, list[Any]]:
    """Register an item and return the `ui` entry that gives the page its handle.

    Args:
        item: what previews are made of.
        owner: output of the node; the handle is dropped with it.
        **more: JSON values that the page receives with the handle.
    """
    return {"my3dgen_live": [{"handle": HANDLES.give(item, owner), **more}]}


host.serve("POST", "/my3dgen/live", handler(SERVER.answer, BODY_LIMIT))
