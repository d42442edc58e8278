"""The part of `living.py` about photos that training has not seen: found again, filled in, made sharp."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from living_measures import hidden_error, hidden_part
from living_pictures import Shelf
from study_persons import Person
from torch import Tensor

from my3dgen_core import (
    AlphaSpace,
    FaceModels,
    Generator,
    Identity,
    InversionConfig,
    inpaint,
    invert,
    personalized,
    sharpen,
)
from my3dgen_core.evaluation import render
from my3dgen_core.evaluation.protocols import nearness
from my3dgen_core.face import embed
from my3dgen_core.losses import resize
from my3dgen_core.restoration import blend, enlarge

if TYPE_CHECKING:
    from living import Settings

PRETRAINED, PERSONAL = "pretrained", "personal"
SPACES = {"alpha P": False, "alpha P+": True}
HOLE = "PSNR of the hidden part, dB"


class Restoring:
    """One person's held-out photos."""

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
        """Reconstructions: alpha space of the person against inversion in the pretrained generator."""

        def projected(plus: bool) -> Tensor:
            found = self.space.project(
                self.generator, self.photos, self.cameras, self.settings.projection, plus=plus, beta=0.03
            )
            return render(self.generator, found.ws, self.cameras)

        shown = {f"{PRETRAINED}, {name}": self._inverted(name, self.photos) for name in ("W", "W+")}
        shown |= self._in_alpha(projected, (PERSONAL,))
        self.shelf.keep(
            "held-out", photo=self.photos[:2], **{name: views[:2] for name, views in shown.items()}
        )
        return {name: self._near(views) for name, views in shown.items()}

    def hidden(self) -> dict[str, Any]:
        """Photos with a part hidden, filled in."""
        photos, cameras = self.photos, self.cameras
        masks = hidden_part(photos, self.settings.hidden)
        spoilt = torch.where(masks > 0, torch.zeros_like(photos), photos)

        def filled(plus: bool) -> Tensor:
            config = self.settings.projection
            return inpaint(self.generator, self.space, spoilt, cameras, masks, config, plus=plus).images.cpu()

        found = {"hidden": spoilt}
        for name in ("W", "W+"):
            found[f"{PRETRAINED}, {name}"] = blend(photos, self._inverted(name, spoilt, masks), masks)
        found |= self._in_alpha(filled, (PRETRAINED, PERSONAL))
        self._keep("hidden", found)
        return {
            name: self._near(pictures) | {HOLE: hidden_error(pictures, photos, masks)}
            for name, pictures in found.items()
        }

    def shrunk(self) -> dict[str, Any]:
        """Photos shrunk to few pixels, and made sharp again."""
        small, full = resize(self.photos, self.settings.small), self.generator.config.img_resolution
        plain = torch.nn.functional.interpolate(small, (full, full), mode="bicubic", align_corners=False)

        def sharp(plus: bool) -> Tensor:
            config = self.settings.projection
            return sharpen(self.generator, self.space, small, self.cameras, config, plus=plus).images.cpu()

        found = {"bicubic": plain, f"{PRETRAINED}, W+": enlarge(small, self._inverted("W+", small))}
        found |= self._in_alpha(sharp, (PERSONAL,), ("alpha P+",))
        self._keep("small", found)
        return {name: self._near(pictures) for name, pictures in found.items()}

    def _inverted(self, space: str, photos: Tensor, masks: Tensor | None = None) -> Tensor:
        """Pictures of the pretrained generator, inverted alone."""
        settings = asdict(self.settings.alone) | {"space": space.lower(), "preview_every": 0}
        found = invert(self.generator, photos, self.cameras, InversionConfig(**settings), masks)
        return render(self.generator, found.ws, self.cameras)

    def _in_alpha(
        self, work: Callable[[bool], Tensor], models: tuple[str, ...], spaces: tuple[str, ...] = tuple(SPACES)
    ) -> dict[str, Tensor]:
        found = {}
        for model in models:
            with self._as(model):
                found |= {f"{model}, {space}": work(SPACES[space]) for space in spaces}
        return found

    @contextmanager
    def _as(self, model: str) -> Iterator[None]:
        inside = (
            personalized(self.generator, self.identity) if model == PERSONAL else contextlib.nullcontext()
        )
        with inside:
            yield

    def _near(self, views: Tensor) -> dict[str, Any]:
        """Nearness to the photos, and the cosine of each face with its own photo's."""
        mine, seen = embed(views, self.face_models)
        theirs, known = self.faces
        both = seen & known
        cosine = float((mine * theirs).sum(1)[both].mean()) if bool(both.any()) else None
        near = nearness(views, resize(self.photos, views.shape[-1]))
        return near | {"identity": cosine, "faces": float(seen.float().mean())}
