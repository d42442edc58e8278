"""Align Faces on a video: every frame as a sequence, or frames chosen as photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import host, socket_types
from ..server.alignment_report import EVENT, photo_report
from ..video_inputs import FramesAsPhotos

if TYPE_CHECKING:
    from ...my3dgen_core.face import FaceModels, FaceReport
    from ...my3dgen_core.formats.video_file import Clip


@dataclass(frozen=True)
class Found:
    """Findings of Align Faces, in the form of its outputs."""

    images: Tensor
    """IMAGE [K,512,512,3]."""
    crops: Tensor | Sequence[Tensor]
    """The same as [3,512,512] in [-1,1], for the overview."""
    cameras: Tensor
    """Camera labels [K,25]."""
    masks: Tensor
    """MASK [K,512,512], 1 where a crop was padded."""
    heads: Tensor | None
    """MASK [K,512,512], 1 on the head, or None without a face-parsing network."""
    photo_masks: Tensor
    """MASK [K,512,512], 1 where a mask was drawn."""
    report: list[FaceReport]
    """One row for each photo."""
    shown: dict[str, list[Any]]
    """`ui` entry of the photo report."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the end of the report."""
    source: socket_types.ClipFrames | None = None
    """The video, if it was one."""


def align_clip(clip: Clip, models: FaceModels, settings: dict[str, Any], node: str | None) -> Found:
    """Align every frame of a clip; the crops lie in temporary files, since they may exceed the memory.

    Args:
        clip: the video.
        models: face networks.
        settings: keyword arguments of `align_sequence`.
        node: id of the node.

    Raises:
        AlignmentError: no frame can be used.
    """
    from ...my3dgen_core.common.tensor_file import TensorFile
    from ...my3dgen_core.face import AlignmentError, cut_sequence
    from ...my3dgen_core.face.align import head_masks

    frames = FramesAsPhotos(clip)
    report: list[FaceReport] = []
    neck = settings.pop("neck")
    folder = host.temporary_path("my3dgen", "").parent
    images, masks, heads = TensorFile(folder), TensorFile(folder), TensorFile(folder)
    cameras = []
    try:
        with host.rendering():
            for cut in cut_sequence(frames, models, report, **settings):
                images.append((cut.image.permute(1, 2, 0) + 1) / 2)
                masks.append(cut.mask[0])
                cameras.append(cut.camera)
                head = head_masks([cut.classes], neck)
                if head is not None:
                    heads.append(head[0, 0])
            found = images.tensor()
    except AlignmentError as error:
        if error.report:
            host.publish(EVENT, {"node": node, **photo_report(frames.small, error.report, frames.sizes)})
        raise
    return Found(
        images=host.to_host(found),
        crops=_CoreCrops(found),
        cameras=torch.stack(cameras),
        masks=host.to_host(masks.tensor()),
        heads=host.to_host(heads.tensor()) if len(heads) == len(images) else None,
        photo_masks=torch.zeros(1).expand(len(cameras), *found.shape[1:3]),
        report=report,
        shown=photo_report(frames.small, report, frames.sizes),
        source=socket_types.ClipFrames(clip),
    )


def align_chosen(
    clip: Clip, models: FaceModels, settings: dict[str, Any], at_most: int, node: str | None
) -> Found:
    """Choose frames of a clip as photos, and align them.

    Args:
        clip: the video.
        models: face networks.
        settings: keyword arguments of `align_faces`.
        at_most: largest number of frames to choose.
        node: id of the node.

    Raises:
        AlignmentError: no frame can be used.
    """
    from ...my3dgen_core import align_faces
    from ...my3dgen_core.face import AlignmentError, choose_frames

    looked = {name: settings[name] for name in ("which", "reference", "upright")}
    with host.rendering():
        choice = choose_frames(
            (frame.pixels for frame in clip.frames()),
            len(clip),
            models,
            at_most,
            **looked,
            on_step=host.progress(node, "looking at frame"),
        )
        frames = FramesAsPhotos(clip, tuple(choice.indices))
        try:
            aligned = align_faces(frames, models, **settings)
        except AlignmentError as error:
            host.publish(EVENT, {"node": node, **photo_report(frames.small, error.report, frames.sizes)})
            raise
    return Found(
        images=socket_types.pictures_to_host(aligned.images),
        crops=aligned.images,
        cameras=aligned.cameras,
        masks=socket_types.mask_to_host(aligned.masks),
        heads=None if aligned.heads is None else socket_types.mask_to_host(aligned.heads),
        photo_masks=torch.zeros_like(aligned.masks[:, 0]),
        report=aligned.report,
        shown=photo_report(frames.small, aligned.report, frames.sizes),
        notes=[choice.summary],
        source=socket_types.ClipFrames(clip, tuple(choice.indices)),
    )


class _CoreCrops(Sequence[Tensor]):
    """IMAGE [K,S,S,3] in 0..1, read as crops [3,S,S] in [-1,1]."""

    def __init__(self, images: Tensor) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        return self._images[index].permute(2, 0, 1) * 2 - 1
