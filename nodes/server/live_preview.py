"""Live pictures: a small frame of a head, at once, for the widgets on the page.

An executed node hands out a handle (`give_head`, `give_mixture`, `give_edit`); the page sends it back with
numbers. Nothing else travels in a request: no path, no name of a file, no tensor.
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
from .live_handles import Edit, Handles, Head, Mixture
from .live_request import BODY_LIMIT, Request, RequestError, parse
from .routes import Answer, handler

if TYPE_CHECKING:
    from ...my3dgen_core import Generator

PLANES = 4
# While dragging: enough to see where one is. At rest: the generator's own picture, no larger than a widget.
DRAG_PIXELS, DRAG_SAMPLES, STILL_PIXELS = 64, 16, 256
BUSY = "A prompt is running: live previews return when it is done."
STALE = "A newer request replaced this one."


class _Person:
    """A generator with a model's identities in effect for good.

    It shares every weight with the model but no module, so that whatever a node does to the model's own
    modules meanwhile, or the other way round, is not seen. One thread only.
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
        self._applied = ExitStack()  # never closed: the copy stays this person
        identities = [applied.identity for applied in model.identities]
        strengths = [applied.strength for applied in model.identities]
        self._applied.enter_context(personalized(self.generator, identities, strengths))

    def picture(self, key: Any, ws: Tensor, camera: Tensor, drag: bool) -> Tensor:
        """[1, 3, h, w] in [-1, 1]; the planes of the last few latents, named by `key`, are kept.

        Quality "fast" first looks at all of the planes: that pays once the camera moves around them.
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
    """Renders one live picture at a time, in a thread of its own; of one handle the newest request wins."""

    def __init__(self, handles: Handles) -> None:
        self.handles = handles
        self._thread = ThreadPoolExecutor(1, "my3dgen-live")
        self._newest: weakref.WeakKeyDictionary[Head, object] = weakref.WeakKeyDictionary()
        self._person: tuple[weakref.ref[Head], _Person] | None = None

    async def answer(self, body: bytes) -> Answer:
        """A JPEG, or a sentence that says why there is none."""
        try:
            request = parse(body)
            head = self.handles.find(request.head, Head)
            if host.busy():
                raise RequestError(503, BUSY)
            ticket = object()
            self._newest[head] = ticket
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._draw, head, request, ticket)
        except RequestError as refused:
            return Answer.sentence(refused.status, str(refused))

    def _draw(self, head: Head, request: Request, ticket: object) -> Answer:
        if self._newest.get(head) is not ticket:
            raise RequestError(409, STALE)
        if host.busy():
            raise RequestError(503, BUSY)
        try:
            with host.rendering():
                picture = self._person_of(head).picture(*self._latent(head, request), request.drag)
        except ValueError as error:  # the core's own sentence, such as a direction of another generator
            raise RequestError(400, str(error)) from error
        except RuntimeError as error:  # such as weights that went to another device in the middle, or memory
            self._person = None
            host.log.warning("live picture: %s", error)
            raise RequestError(503, "No live preview at the moment. Move again.") from error
        return Answer(200, "image/jpeg", host.jpeg(picture))

    def _person_of(self, head: Head) -> _Person:
        model = head.model()
        if model is None:
            raise RequestError(410, "The model of this preview is gone. Queue the workflow again.")
        kept = self._person
        if kept is None or kept[0]() is not head or kept[1].device != socket_types.device_of(model.generator):
            # dies with its head: what is kept here must not keep a model's weights
            kept = weakref.ref(head, lambda _: self._forget()), _Person(model)
            self._person = kept
        return kept[1]

    def _forget(self) -> None:
        self._person = None

    def _latent(self, head: Head, request: Request) -> tuple[Any, Tensor, Tensor]:
        """What names the latent, the latent [1, num_ws, w_dim], the camera [1, 25]."""
        model = head.model()
        pivot = model.generator.config.avg_camera_pivot if model and request.aim == "model" else None
        camera = cameras_from(**request.camera, pivot=pivot)
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
STUDIO = LivePreviewServer(HANDLES)


def publish(thing: Head | Mixture | Edit, owner: object, **more: Any) -> dict[str, list[Any]]:
    """What a node adds to its `ui`, so that the page learns the handle; `more` goes along with it."""
    return {"my3dgen_live": [{"handle": HANDLES.give(thing, owner), **more}]}


host.serve("POST", "/my3dgen/live", handler(STUDIO.answer, BODY_LIMIT))
