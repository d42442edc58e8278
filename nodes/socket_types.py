"""Values of the sockets, and conversions of results to ComfyUI's images and masks.

EG3D_MODEL carries `Model`, EG3D_CAMERA `Cameras`, EG3D_CROP `Crops`, EG3D_LATENT the core's `Latents`,
MY3DGEN_IDENTITY the core's `Identity`, EG3D_DIRECTION its `Direction`. A value is shared by every branch of a
workflow and by later runs: never change one in place.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import host

if TYPE_CHECKING:
    import numpy as np

    from ..my3dgen_core import Generator, Identity, Latents
    from ..my3dgen_core.face import CropTransform
    from ..my3dgen_core.formats.video_file import Clip

MODEL, CAMERA, LATENT, IDENTITY = "EG3D_MODEL", "EG3D_CAMERA", "EG3D_LATENT", "MY3DGEN_IDENTITY"
EXACT, ESTIMATED = "exact", "estimated"
"""Values of `Cameras.source` and of the core's `Latents.camera_source`."""
DIRECTION = "EG3D_DIRECTION"
CROP = "EG3D_CROP"
FACE_LANDMARKS = "FACE_LANDMARKS"
"""Type of ComfyUI's own face landmarks, see `my3dgen_core.face.given_landmarks`."""
DISTANCE, FIELD_OF_VIEW = 2.7, 13.3738
"""EG3D's own camera: its distance from the head, and its field of view in degrees (focal length 4.2647)."""
_IN_USE = threading.RLock()
"""Lock held while an identity is applied to a generator's modules."""

_BASE_HASHES: weakref.WeakKeyDictionary[Generator, str] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class AppliedIdentity:
    """An identity with the factor of its update."""

    identity: Identity
    strength: float


@dataclass(frozen=True)
class Model:
    """A generator under ComfyUI's memory management, and the identities to apply whenever it is used."""

    patcher: Any
    """ComfyUI's ModelPatcher, or its substitute outside ComfyUI."""
    name: str
    """File name, for messages."""
    identities: tuple[AppliedIdentity, ...] = ()
    """Identities, applied in this order."""

    @property
    def generator(self) -> Generator:
        """The bare generator on its present device; use it for its configuration and hash only."""
        return self.patcher.model

    def base_hash(self) -> str:
        """Return the generator's base hash, computed once: its weights are never written to.

        It reads all weights, on a GPU after copying them to the processor, which takes longer than a picture.
        """
        generator = self.generator
        if generator not in _BASE_HASHES:
            _BASE_HASHES[generator] = generator.base_hash()
        return _BASE_HASHES[generator]

    def with_identity(self, identity: Identity, strength: float) -> Model:
        """Return the same generator with one more identity.

        Raises:
            ValueError: the identity belongs to another generator, or was tuned on top of an identity that is
                not applied.
        """
        identity.check_base(self.base_hash())
        below = [applied.identity.content_hash() for applied in self.identities]
        needed = identity.base_identity_hash
        if needed is not None and needed not in below:
            raise ValueError(
                f"This identity was tuned on top of identity {needed[:12]}, which is not applied. "
                "Apply that one first, then this one."
            )
        return replace(self, identities=(*self.identities, AppliedIdentity(identity, strength)))

    def without_identities(self) -> Model:
        """Return the bare generator."""
        return replace(self, identities=())

    @contextmanager
    def ready(self, memory: int = 0) -> Iterator[Generator]:
        """Load the generator on its compute device and apply this model's identities inside the `with` block.

        Args:
            memory: bytes of working memory to keep free on the device.
        """
        from ..my3dgen_core import personalized

        generator = host.resident(self.patcher, memory)
        identities = [applied.identity for applied in self.identities]
        strengths = [applied.strength for applied in self.identities]
        with _IN_USE, personalized(generator, identities, strengths):
            yield generator

    @contextmanager
    def untouched(self) -> Iterator[Generator | None]:
        """Lock the bare generator against changes inside the `with` block; yields None while it is in use.

        For threads other than the executor's. Keep the block short: nodes wait for its end.
        """
        free = _IN_USE.acquire(blocking=False)
        try:
            yield self.generator if free else None
        finally:
            if free:
                _IN_USE.release()


@dataclass(frozen=True)
class Cameras:
    """Value of EG3D_CAMERA."""

    values: Tensor
    """Cameras [N, 25] of the core."""
    source: str | None = None
    """"exact": chosen, or recorded with the pictures; "estimated" from them; None: unknown."""

    def __post_init__(self) -> None:
        check_result(self.values, "The cameras", "two positions that coincide, or an input that is no number")

    def __len__(self) -> int:
        return self.values.shape[0]

    @classmethod
    def joined(cls, values: Tensor, parts: Iterable[Cameras]) -> Cameras:
        """Return cameras made of others: exact if all of those are, estimated if one is, else unknown."""
        sources = {part.source for part in parts}
        source = EXACT if sources == {EXACT} else ESTIMATED if ESTIMATED in sources else None
        return cls(values, source)


@dataclass(frozen=True)
class ClipFrames:
    """Frames of a video that was given to Align Faces."""

    clip: Clip
    """The video."""
    chosen: tuple[int, ...] | None = None
    """Indices of the frames that were chosen as photos; None: every frame, as a sequence."""


@dataclass(frozen=True)
class Crops:
    """Value of EG3D_CROP: the positions of face crops in their photos."""

    transforms: tuple[CropTransform, ...]
    """Transform from photo to crop, one per crop."""
    photos: tuple[int, ...]
    """Index of each crop's photo."""
    photo_count: int
    """Number of photos that Align Faces received, or of frames that it used."""
    source: ClipFrames | None = None
    """The video from which the photos came, or None."""
    meshes: tuple[tuple[np.ndarray | None, dict[str, float] | None], ...] = ()
    """Face mesh [468 or more,3] and weights of expressions of each crop, None where they are not known."""

    def __len__(self) -> int:
        return len(self.transforms)


@dataclass(frozen=True)
class Mesh:
    """Value of MESH for versions of ComfyUI that have no class for it."""

    vertices: Tensor
    """[1, V, 3]."""
    faces: Tensor
    """Vertex indices [1, F, 3]."""
    vertex_colors: Tensor | None
    """Linear, as glTF has them, [1, V, 3] in 0..1; None with a texture, which they would darken."""
    normals: Tensor
    """Unit normals of the vertices, [1, V, 3]."""
    uvs: Tensor | None = None
    """Places in the texture, [1, V, 2] in 0..1 from its upper left corner; None without one."""
    texture: Tensor | None = None
    """sRGB, [1, H, W, 3] in 0..1."""
    unlit: bool = True
    """True: the colors are shown as they are, without light."""


def make_mesh(
    vertices: Tensor,
    faces: Tensor,
    vertex_colors: Tensor | None,
    normals: Tensor,
    uvs: Tensor | None = None,
    texture: Tensor | None = None,
) -> Any:
    """Return an unlit MESH for ComfyUI's 3D nodes: its own class, with the fields of `Mesh` that it has."""
    for values in (vertices, vertex_colors, normals, uvs, texture):
        if values is not None:
            check_result(values, "The mesh")
    made = Mesh(vertices, faces, vertex_colors, normals, uvs, texture)
    core = host.mesh_class()
    if core is None:
        return made
    fields = vars(made)
    known = inspect.signature(core).parameters
    mesh = core(**{name: value for name, value in fields.items() if name in known})
    for name, value in fields.items():
        if not hasattr(mesh, name):
            setattr(mesh, name, value)  # an older ComfyUI ignores it, other packs may read it
    return mesh


def device_of(generator: Generator) -> torch.device:
    """Return the device of the generator's weights."""
    return next(generator.parameters()).device


BROKEN_RENDER = (
    "an identity whose training diverged, a strength or a direction far outside its usual range, or damaged "
    "weights of the generator. Render the same latents without the identity to see which"
)
"""Likely cause of renderings that are not finite, or black."""


def check_result(values: Tensor, what: str, cause: str = BROKEN_RENDER, before: int = 0) -> Tensor:
    """Check what a node is about to give to the next one, and return it.

    Args:
        values: one row for each picture, latent or camera.
        what: their name at the start of the error message.
        cause: the likely cause, at the end of the error message.
        before: number of rows that were checked before these, for the number in the message.

    Raises:
        FloatingPointError: a NaN or an infinite number.
    """
    finite = torch.isfinite(values).flatten(1).all(dim=1)
    if not bool(finite.all()):
        first = before + int((~finite).nonzero()[0]) + 1
        raise FloatingPointError(
            f"{what} came out with NaN or infinite numbers (number {first} is the first), so the node gives "
            f"none. Likely cause: {cause}."
        )
    return values


def check_render(images: Tensor, before: int = 0) -> Tensor:
    """Check renderings [B,3,H,W] in [-1,1] as `check_result` does, and that none is entirely black."""
    check_result(images, "The renderings", before=before)
    black = (images.flatten(1) <= -1).all(dim=1)
    if bool(black.any()):
        raise FloatingPointError(
            f"The renderings came out entirely black (number {before + int(black.nonzero()[0]) + 1} is the "
            f"first), so the node gives none. Likely cause: {BROKEN_RENDER}."
        )
    return images


def checked_latents(latents: Latents) -> Latents:
    """Check latents as `check_result` does, and return them."""
    check_result(latents.ws, "The latents", "anchors, weights or a direction with numbers far too large")
    return latents


def checked_identity(identity: Identity) -> Identity:
    """Check an identity's update and anchors as `check_result` does, and return it."""
    for name, values in identity.adapter.tensors.items():
        check_result(values.reshape(1, -1), f"The identity's {name}", "a training that diverged")
    checked_latents(identity.anchors)
    return identity


def pictures_to_host(images: Tensor, what: str = "The pictures", cause: str = BROKEN_RENDER) -> Tensor:
    """Convert [B,3,H,W] in [-1,1] to IMAGE [B,H,W,3] in 0..1, checked by `check_result`."""
    check_result(images, what, cause)
    return host.to_host(((images.float().clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).contiguous())


def even_sides(images: Tensor) -> Tensor:
    """Cut the last row or column of IMAGE [B,H,W,3] where a side is odd: video encoders take even sides."""
    height, width = images.shape[1:3]
    if min(height, width) < 2:
        return images
    return images[:, : height // 2 * 2, : width // 2 * 2]


def mask_to_host(masks: Tensor) -> Tensor:
    """Convert [B,1,H,W] in 0..1 to MASK [B,H,W], checked by `check_result`."""
    check_result(masks, "The masks")
    return host.to_host(masks.float().clamp(0, 1)[:, 0].contiguous())


def check_same_count(pictures: int, others: int, node: str, what: str = "cameras") -> None:
    """Raise a ValueError unless there is one camera (or `what`) per picture."""
    if pictures != others:
        raise ValueError(
            f"{node} got {pictures} pictures but {others} {what}. Both must come from the same photos, "
            "in the same order."
        )


MEAN, EVERY, SINGLE = "mean", "every", "single"
"""Choices of the input `which`."""


def chosen(latents: Latents, which: str, index: int) -> Latents:
    """Select latents by a node's inputs `which` and `index`.

    Returns:
        The mean latent without a camera, all latents, or the one with this index.
    """
    from ..my3dgen_core import Latents
    from ..my3dgen_core.person.latents import check_not_empty

    check_not_empty(latents)
    if which == MEAN:
        return Latents(latents.mean(), base_hash=latents.base_hash)
    if which == EVERY:
        return latents
    if not 0 <= index < len(latents):
        raise ValueError(f"There is no latent number {index}: these are 0 to {len(latents) - 1}.")
    cameras = None if latents.cameras is None else latents.cameras[index : index + 1]
    source = latents.camera_source
    return Latents(latents.ws[index : index + 1], cameras, base_hash=latents.base_hash, camera_source=source)


def check_latents(latents: Latents, model: Model) -> None:
    """Raise a ValueError if there are no latents, or they belong to another generator than the model's."""
    from ..my3dgen_core.person.latents import check_not_empty

    check_not_empty(latents)
    check_base(latents.base_hash, model, "These latents belong")


def check_base(base_hash: str | None, model: Model, belongs: str) -> None:
    """Raise a ValueError if a hash is known and is not the hash of the model's generator.

    Args:
        base_hash: hash of the generator that something was made with, or None.
        model: the model it is to be used with.
        belongs: start of the error message, such as "These latents belong".
    """
    expected = model.base_hash()
    if base_hash is not None and base_hash != expected:
        raise ValueError(
            f"{belongs} to generator {base_hash[:12]}, but the model is {model.name!r} ({expected[:12]}). "
            "Load the generator of both."
        )
