"""How like the person a training's previews are: ArcFace's cosine with the photo, for the monitor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from .. import host

if TYPE_CHECKING:
    from ...my3dgen_core import FaceModels

NO_MODELS = "Without face models the identity similarity is not measured."
NO_FACE = "No face was found in the photo: the identity similarity is not measured."
FAILED = "The identity similarity could not be measured: the server's log says why."


class Likeness:
    """Of one photo and pictures of the same view.

    It stands beside the training: what is missing or fails ends the measure, with a line for people in
    `note`, and never the training. It draws no random number and keeps no gradient.
    """

    def __init__(self, photo: Tensor, models: Callable[[], FaceModels]) -> None:
        """photo [1, 3, H, W] in [-1, 1]; models: loaded, or loads them, when the first picture comes."""
        self.note = ""
        self._photo, self._models = photo, models
        self._face: tuple[FaceModels, Tensor, Tensor] | None = None  # points [1, 5, 2] in parts, embedding

    def of(self, picture: Tensor) -> float | None:
        """The cosine with a picture [1, 3, h, w] in [-1, 1]; None where it is not measured (any more)."""
        from ...my3dgen_core.face import FaceModelError

        if self.note:
            return None
        try:
            return self._measure(picture.detach())
        except (OSError, FaceModelError) as error:
            self.note = NO_MODELS
            host.log.info("no identity similarity: %s", error)
        except Exception:  # a training of hours must not end by what only watches it
            self.note = FAILED
            host.log.exception("the identity similarity failed")
        return None

    def _measure(self, picture: Tensor) -> float | None:
        from ...my3dgen_core.face import embed

        face = self._face = self._face or self._of_photo()
        if face is None:
            self.note = NO_FACE
            return None
        models, points, own = face
        # The picture is of the photo's own camera: the face lies where it lies there.
        seen, _ = embed(picture, models, (points * picture.shape[-1]).numpy())
        return float((seen * own).sum())

    def _of_photo(self) -> tuple[FaceModels, Tensor, Tensor] | None:
        import torch

        from ...my3dgen_core.face.recognition import embed, find_points

        models = self._models()
        points, found = find_points(self._photo, models)
        if not found[0]:
            return None
        own, _ = embed(self._photo, models, points)
        return models, torch.from_numpy(points) / self._photo.shape[-1], own


def likeness(images: Tensor, pack: str, loaded: FaceModels | None = None) -> Likeness:
    """Of the first of a training's photos, IMAGE [B, H, W, 3].

    Args:
        pack: name of the face pack, or "auto".
        loaded: its models, where they are at hand already.
    """

    def models() -> FaceModels:
        from ...my3dgen_core import FaceModels

        # On the CPU: a GPU's memory is the training's.
        return loaded or FaceModels.from_folder(host.find_face_pack(pack), ["CPUExecutionProvider"])

    return Likeness(images[:1, ..., :3].detach().permute(0, 3, 1, 2).float().cpu() * 2 - 1, models)
