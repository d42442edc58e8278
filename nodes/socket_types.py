"""What travels on the wires, and the conversions between ComfyUI's pictures and the core's.

EG3D_MODEL carries `Model`, EG3D_CAMERA `Cameras`, EG3D_CROP `Crops`, EG3D_LATENT the core's `Latents`,
MY3DGEN_IDENTITY the core's `Identity`, EG3D_DIRECTION its `Direction`. All are shared by every branch of a
workflow and by later runs: never change one in place.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import host

if TYPE_CHECKING:
    from ..my3dgen_core import Generator, Identity, Latents
    from ..my3dgen_core.face import CropTransform

MODEL, CAMERA, LATENT, IDENTITY = "EG3D_MODEL", "EG3D_CAMERA", "EG3D_LATENT", "MY3DGEN_IDENTITY"
DIRECTION = "EG3D_DIRECTION"
CROP = "EG3D_CROP"
DISTANCE, FIELD_OF_VIEW = 2.7, 13.3738
"""EG3D's own camera: its distance from the head, and its field of view in degrees (focal length 4.2647)."""
_IN_USE = threading.RLock()
"""Held while an identity is in effect in a generator's modules."""


@dataclass(frozen=True)
class AppliedIdentity:
    identity: Identity
    strength: float


@dataclass(frozen=True)
class Model:
    """A generator in ComfyUI's care, and the identities to apply around each use of it."""

    patcher: Any
    name: str
    identities: tuple[AppliedIdentity, ...] = ()

    @property
    def generator(self) -> Generator:
        """The bare generator, wherever its weights are now; for its configuration and its hash."""
        return self.patcher.model

    def with_identity(self, identity: Identity, strength: float) -> Model:
        """The same generator with one more identity; this one stays as it is.

        Raises:
            ValueError: an identity of another generator, or a look of one that is not applied.
        """
        identity.check_base(self.generator.base_hash())
        below = [applied.identity.content_hash() for applied in self.identities]
        if identity.base_identity_hash is not None and identity.base_identity_hash not in below:
            raise ValueError(
                f"This identity was tuned on top of identity {identity.base_identity_hash[:12]}, which is not applied. "
                "Apply that one first, then this one."
            )
        return replace(self, identities=(*self.identities, AppliedIdentity(identity, strength)))

    def without_identities(self) -> Model:
        return replace(self, identities=())

    @contextmanager
    def ready(self, memory: int = 0) -> Iterator[Generator]:
        """The generator on its device, with this model's identities in effect for the length of the block."""
        from ..my3dgen_core import personalized

        generator = host.resident(self.patcher, memory)
        identities = [applied.identity for applied in self.identities]
        strengths = [applied.strength for applied in self.identities]
        with _IN_USE, personalized(generator, identities, strengths):
            yield generator

    @contextmanager
    def untouched(self) -> Iterator[Generator | None]:
        """The bare generator wherever it is, sure to stay as it is within the block; None while it is in use.

        For another thread than the executor's. Keep the block short: nodes wait for its end.
        """
        free = _IN_USE.acquire(blocking=False)
        try:
            yield self.generator if free else None
        finally:
            if free:
                _IN_USE.release()


@dataclass(frozen=True)
class Cameras:
    """Cameras [N, 25] of the core."""

    values: Tensor

    def __len__(self) -> int:
        return self.values.shape[0]


@dataclass(frozen=True)
class Crops:
    """Where face crops came from: one transform a crop, and which of `photo_count` photos it was cut from."""

    transforms: tuple[CropTransform, ...]
    photos: tuple[int, ...]
    photo_count: int

    def __len__(self) -> int:
        return len(self.transforms)


@dataclass(frozen=True)
class Mesh:
    """A MESH for cores that have no class for it: vertices [1,V,3], faces [1,F,3].

    vertex_colors [1,V,3], 0..1; normals [1,V,3].
    """

    vertices: Tensor
    faces: Tensor
    vertex_colors: Tensor
    normals: Tensor


def make_mesh(vertices: Tensor, faces: Tensor, vertex_colors: Tensor, normals: Tensor) -> Any:
    """What core's 3D nodes take as MESH: core's own class, with as many of these fields as it knows."""
    fields = {"vertices": vertices, "faces": faces, "vertex_colors": vertex_colors, "normals": normals}
    core = host.mesh_class()
    if core is None:
        return Mesh(**fields)
    known = inspect.signature(core).parameters
    mesh = core(**{name: value for name, value in fields.items() if name in known})
    for name, value in fields.items():
        if not hasattr(mesh, name):
            setattr(mesh, name, value)  # an older core ignores it, other packs may look for it
    return mesh


def device_of(generator: Generator) -> torch.device:
    return next(generator.parameters()).device


def checked_pictures(images: Tensor, what: str) -> Tensor:
    """IMAGE [B,H,W,3 or 4] -> the same without alpha; anything else raises a sentence."""
    if (
        not isinstance(images, Tensor)
        or images.ndim != 4
        or images.shape[3] not in (3, 4)
        or len(images) == 0
    ):
        shape = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"{what} must be an IMAGE [batch, height, width, 3], but got {shape}.")
    if not bool(torch.isfinite(images).all()):
        raise ValueError(f"{what} contain a NaN or an infinite number: an earlier node has failed.")
    return images[..., :3]


def pictures_to_core(images: Tensor, what: str) -> Tensor:
    """IMAGE [B,H,W,3], 0..1 -> [B,3,H,W] in [-1,1], a copy of its own."""
    pixels = checked_pictures(images, what).detach().clone().float()
    return pixels.permute(0, 3, 1, 2).contiguous() * 2 - 1


def crops_to_core(images: Tensor, what: str = "The crops") -> Tensor:
    """As `pictures_to_core`, for square face crops whose cameras are known."""
    pixels = pictures_to_core(images, what)
    height, width = pixels.shape[2:]
    if height != width:
        raise ValueError(
            f"{what} must be square face crops, but these are {width}x{height}. Use Align Faces first."
        )
    return pixels


def pictures_to_host(images: Tensor) -> Tensor:
    """[B,3,H,W] in [-1,1] -> IMAGE [B,H,W,3], 0..1."""
    return host.to_host(((images.float().clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).contiguous())


def mask_to_core(mask: Tensor | None, count: int, device: torch.device) -> Tensor | None:
    """MASK [B,H,W] -> [B,1,H,W], a copy of its own; one mask serves all pictures."""
    if mask is None:
        return None
    masks = mask.detach().clone().float().to(device)
    masks = masks[None, None] if masks.ndim == 2 else masks[:, None]
    if masks.shape[0] not in (1, count):
        raise ValueError(
            f"There are {masks.shape[0]} masks for {count} pictures. Use one, or one per picture."
        )
    return masks.expand(count, -1, -1, -1).contiguous()


def mask_to_host(masks: Tensor) -> Tensor:
    """[B,1,H,W], 0..1 -> MASK [B,H,W]."""
    return host.to_host(masks.float().clamp(0, 1)[:, 0].contiguous())


def check_same_count(pictures: int, others: int, node: str, what: str = "cameras") -> None:
    """One camera (or anchor) a picture; anything else is two outputs that do not belong together."""
    if pictures != others:
        raise ValueError(
            f"{node} got {pictures} pictures but {others} {what}. Both must come from the same photos, "
            "in the same order."
        )


MEAN, EVERY, SINGLE = "mean", "every", "single"


def chosen(latents: Latents, which: str, index: int) -> Latents:
    """The latents that a node works with: their mean (it has no camera of its own), all, or one of them."""
    from ..my3dgen_core import Latents

    if which == MEAN:
        return Latents(latents.mean(), base_hash=latents.base_hash)
    if which == EVERY:
        return latents
    if not 0 <= index < len(latents):
        raise ValueError(f"There is no latent number {index}: these are 0 to {len(latents) - 1}.")
    cameras = None if latents.cameras is None else latents.cameras[index : index + 1]
    return Latents(latents.ws[index : index + 1], cameras, base_hash=latents.base_hash)


def check_latents(latents: Latents, model: Model) -> None:
    """Latents mean nothing to a generator they were not found in."""
    check_base(latents.base_hash, model, "These latents belong")


def check_base(base_hash: str | None, model: Model, belongs: str) -> None:
    """What carries the hash of another generator is refused; without a hash nobody knows."""
    expected = model.generator.base_hash()
    if base_hash is not None and base_hash != expected:
        raise ValueError(
            f"{belongs} to generator {base_hash[:12]}, but the model is {model.name!r} ({expected[:12]}). "
            "Load the generator of both."
        )
