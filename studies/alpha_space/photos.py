"""Reconstruction and inpainting of held-out photos, for `studies.alpha_space`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from my3dgen_core import (
    AlphaSpace,
    FaceModels,
    Generator,
    Identity,
    inpaint,
    invert,
    personalized,
)
from my3dgen_core.common.image_ops import resize
from my3dgen_core.editing.restoration import blend
from my3dgen_core.evaluation import render
from my3dgen_core.evaluation.protocols import nearness
from my3dgen_core.face import embed
from studies.alpha_space.measures import hidden_error, hidden_part
from studies.alpha_space.pictures import Shelf
from studies.personalization.persons import Person

if TYPE_CHECKING:
    from studies.alpha_space.__main__ import Settings

PRETRAINED, PERSONAL = "pretrained", "personal"
HOLE = "PSNR of the hidden part, dB"


class Restoring:
    """Measures the held-out photos of one person."""

    def __init__(
        self,
        generator: Generator,
        identity: Identity,
        person: Person,
        face_models: FaceModels,
        settings: Settings,
        shelf: Shelf,
    ) -> None:
        self.generator, self.identity, self.settings = generator, identity, settings
        self.face_models, self.shelf = face_models, shelf
        self.space = AlphaSpace(identity.anchors)
        self.photos = person.held_photos[: settings.held_photos]
        self.cameras = person.held_cameras[: settings.held_photos]
        self.faces = embed(self.photos, face_models)

    def held_out(self) -> dict[str, Any]:
        """Measure reconstructions: projection into alpha space, and inversion in the pretrained generator."""

        def projected() -> Tensor:
            found = self.space.project(
                self.generator, self.photos, self.cameras, self.settings.projection, plus=True, beta=0.03
            )
            return render(self.generator, found.ws, self.cameras)

        shown = {f"{PRETRAINED}, W": self._inverted(self.photos)}
        shown |= self._in_alpha(projected)
        self._keep("held-out", shown)
        return {name: self._near(views) for name, views in shown.items()}

    def hidden(self) -> dict[str, Any]:
        """Measure photos whose hidden part is inpainted."""
        photos, cameras = self.photos, self.cameras
        masks = hidden_part(photos, self.settings.hidden)
        occluded = torch.where(masks > 0, torch.zeros_like(photos), photos)

        def filled() -> Tensor:
            config = self.settings.projection
            return inpaint(
                self.generator, self.space, occluded, cameras, masks, config, plus=True
            ).images.cpu()

        found = {"hidden": occluded}
        found[f"{PRETRAINED}, W"] = blend(photos, self._inverted(occluded, masks), masks)
        found |= self._in_alpha(filled)
        self._keep("hidden", found)
        return {
            name: self._near(pictures) | {HOLE: hidden_error(pictures, photos, masks)}
            for name, pictures in found.items()
        }

    def _inverted(self, photos: Tensor, masks: Tensor | None = None) -> Tensor:
        """Invert each photo into the pretrained generator's W and render it."""
        found = invert(self.generator, photos, self.cameras, self.settings.alone, masks)
        return render(self.generator, found.ws, self.cameras)

    def _in_alpha(self, work: Callable[[], Tensor]) -> dict[str, Tensor]:
        with personalized(self.generator, self.identity):
            return {f"{PERSONAL}, alpha P+": work()}

    def _keep(self, part: str, found: dict[str, Tensor]) -> None:
        self.shelf.keep(part, photo=self.photos[:2], **{name: views[:2] for name, views in found.items()})

    def _near(self, views: Tensor) -> dict[str, Any]:
        """Return image similarity to the photos, and the cosine of each face with its photo's."""
        mine, seen = embed(views, self.face_models)
        theirs, known = self.faces
        both = seen & known
        cosine = float((mine * theirs).sum(1)[both].mean()) if bool(both.any()) else None
        near = nearness(views, resize(self.photos, views.shape[-1]))
        return near | {"identity": cosine, "faces": float(seen.float().mean())}
