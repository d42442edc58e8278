"""Identity similarity of training previews: the ArcFace cosine with the photo, for the training monitor."""

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


class IdentitySimilarity:
    """ArcFace similarity of training previews to one photo.

    It runs alongside the training and never interrupts it: on failure it stops measuring and puts a message
    for users in `note`. It draws no random numbers and keeps no gradients.
    """

    def __init__(self, photo: Tensor, load_models: Callable[[], FaceModels]) -> None:
        """Keep the photo; face models are loaded with the first preview.

        Args:
            photo: [1, 3, H, W] in [-1, 1].
            load_models: returns the face models, or raises OSError or FaceModelError if there are none.
        """
        self.note = ""
        self._photo, self._load_models = photo, load_models
        self._reference: tuple[FaceModels, Tensor, Tensor] | None = None

    def measure(self, picture: Tensor) -> float | None:
        """Return the cosine of the photo with a preview from its own camera.

        Args:
            picture: [1, 3, h, w] in [-1, 1].

        Returns:
            The cosine, or None if it cannot be measured; `note` then has the reason.
        """
        from ...my3dgen_core.face import FaceModelError

        if self.note:
            return None
        try:
            return self._cosine(picture.detach())
        except (OSError, FaceModelError) as error:
            self.note = NO_MODELS
            host.log.info("no identity similarity: %s", error)
        except Exception:  # a monitor must not end a training of hours
            self.note = FAILED
            host.log.exception("the identity similarity failed")
        return None

    def _cosine(self, picture: Tensor) -> float | None:
        from ...my3dgen_core.face import embed

        reference = self._reference = self._reference or self._embed_photo()
        if reference is None:
            self.note = NO_FACE
            return None
        models, points, photo_embedding = reference
        # The preview has the photo's camera, so the face is at the same place.
        embedding, _ = embed(picture, models, (points * picture.shape[-1]).numpy())
        return float((embedding * photo_embedding).sum())

    def _embed_photo(self) -> tuple[FaceModels, Tensor, Tensor] | None:
        """Return models, five points [1, 5, 2] as fractions of the side, embedding [1, D]; None: no face."""
        import torch

        from ...my3dgen_core.face.recognition import embed, find_points

        models = self._load_models()
        points, found = find_points(self._photo, models)
        if not found[0]:
            return None
        embedding, _ = embed(self._photo, models, points)
        return models, torch.from_numpy(points) / self._photo.shape[-1], embedding


def similarity_to_first(photos: Tensor, pack: str, loaded: FaceModels | None = None) -> IdentitySimilarity:
    """Return the similarity to the first of a training's photos.

    Args:
        photos: [B, 3, H, W] in [-1, 1].
        pack: name of the face pack, or "auto".
        loaded: the models of the pack, if they are loaded already.
    """

    def load_models() -> FaceModels:
        from ...my3dgen_core import FaceModels

        # On the CPU: the GPU's memory belongs to the training.
        return loaded or FaceModels.from_folder(host.find_face_pack(pack), ["CPUExecutionProvider"])

    return IdentitySimilarity(photos[:1].cpu(), load_models)
