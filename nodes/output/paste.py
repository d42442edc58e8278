"""Paste node: blends new faces back into the photos from which the crops were cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import host, picture_inputs, socket_types
from ..video_inputs import audio_of

MOST_BYTES = 1 << 30
"""Size up to which the frames of a video are also given as IMAGE."""
NO_VIDEO = (
    "There is no video: the crops are of photos. Connect a video to Align Faces and turn sequence on there."
)


class PasteBack:
    CATEGORY = "My3DGen/Output"
    SEARCH_ALIASES = ["face swap", "uncrop", "composite face", "blend face", "stitch crop", "restore crop"]
    DESCRIPTION = (
        "Pastes edited or rendered face crops back into the photos or the video that Align Faces cut them "
        "from, with a soft edge. Everything outside stays unchanged."
    )
    RETURN_TYPES = ("IMAGE", "STRING", "VIDEO", "FLOAT", "AUDIO")
    RETURN_NAMES = ("photos", "report", "video", "fps", "audio")
    OUTPUT_TOOLTIPS = (
        "All photos in their order, those without a crop unchanged: a batch if all have one size, otherwise "
        "a list. A single crop with several images gives the photo once per image.",
        "How many photos have a new face, and which are unchanged.",
        "The video with the new faces, for Save Video, with the sound of the original: if crops are "
        "the sequence of a video.",
        "Frame rate of the video, for Create Video.",
        "Sound of the video, for Create Video; nothing if it has none.",
    )
    INPUT_IS_LIST = True
    OUTPUT_IS_LIST = (True, False, False, False, False)
    FUNCTION = "paste"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            # optional altogether: photos may be left open, and inputs keep their places in saved workflows
            "optional": {
                "photos": (
                    "IMAGE",
                    {
                        "tooltip": "All photos that went into Align Faces, in the same order; scaled copies "
                        "also work. A single crop takes any number of images. For crops of a video leave "
                        "this open: its frames are decoded again."
                    },
                ),
                "crops": (
                    socket_types.CROP,
                    {"tooltip": "From Align Faces: where each crop lies in its photo."},
                ),
                "images": (
                    "IMAGE",
                    {"tooltip": "The new face crops, one per crop of Align Faces; square, of any size."},
                ),
                "feather": (
                    "FLOAT",
                    {
                        "default": 24.0,
                        "min": 0.0,
                        "max": 256.0,
                        "step": 1.0,
                        "tooltip": "Width of the soft edge, in pixels of a 512 px crop. 0 is a hard edge.",
                    },
                ),
                "masks": (
                    "MASK",
                    {
                        "tooltip": "Paste only where this is white, such as the head mask of Render Head. "
                        "One mask, or one per image."
                    },
                ),
                "old_heads": (
                    "MASK",
                    {
                        "tooltip": "Mask of the original head, for a new pose: what the new head does not "
                        "cover is filled in from around it. One mask, or one per image."
                    },
                ),
                "wider": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 1.0,
                        "max": 4.0,
                        "step": 0.05,
                        "tooltip": "Field of view of images and masks relative to the crop: the same value "
                        "as in Widen Field of View. 1: the crop itself.",
                    },
                ),
                "even_sides": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Of several pictures of one size, cut the last row or column if their "
                        "height or width is odd: video encoders take only even sides.",
                    },
                ),
            },
            "hidden": {"node_id": "UNIQUE_ID"},
        }

    def paste(
        self,
        photos: list[Tensor] | None = None,
        crops: Sequence[socket_types.Crops] = (),
        images: list[Tensor] | None = None,
        feather: Sequence[float] = (24.0,),
        masks: list[Tensor] | None = None,
        old_heads: list[Tensor] | None = None,
        wider: list[float] | None = None,
        even_sides: list[bool] | None = None,
        node_id: list[str] | None = None,
    ) -> tuple[list[Any], str, Any, Any, Any]:
        node = node_id[0] if node_id else None
        if not crops:
            raise ValueError("There is nothing to paste into. Connect crops of Align Faces to crops.")
        if images is None:
            raise ValueError("There is nothing to paste. Connect the new face crops to images.")
        cuts = crops[0]
        faces = [face for batch in picture_inputs.checked_pictures(images, "images") for face in batch.cpu()]
        new = _NewFaces(
            faces,
            cuts,
            _masks(masks, faces, "masks"),
            _masks(old_heads, faces, "old_heads"),
            feather[0],
            wider[0] if wider else 1.0,
        )
        even = even_sides is None or even_sides[0]
        if photos is None:
            if cuts.source is None:
                raise ValueError("Connect photos: the crops are of pictures, not of a video.")
            if len(faces) != len(cuts):
                raise ValueError(
                    f"There are {len(faces)} new faces for {len(cuts)} crops. Give one per crop, in order."
                )
            pasted, lines, video = _into_frames(new, cuts.source, even, node)
        else:
            pasted, lines, video = _into_photos(new, photos, even, node)
        text = "\n".join(lines)
        host.report(node, text)
        if cuts.source is None or cuts.source.chosen is not None:
            nothing = host.blocked(NO_VIDEO)
            return pasted, text, nothing, nothing, nothing
        sound = audio_of(cuts.source.clip.sound())
        return pasted, text, video, float(cuts.source.clip.rate), sound


@dataclass(frozen=True)
class _NewFaces:
    """The faces to paste, with their masks and settings."""

    faces: list[Tensor]
    """Pictures [S,S,3 or 4] in 0..1."""
    cuts: socket_types.Crops
    """Crops of Align Faces."""
    heads: list[Tensor | None]
    """Mask [1,s,s] of each face, or None."""
    old: list[Tensor | None]
    """Mask [1,s,s] of each old head, or None."""
    feather: float
    """Width of the soft edge in pixels of a 512 crop."""
    wider: float
    """Field of view relative to the crop."""

    def paste(self, pixels: np.ndarray, face: int, cut: int) -> np.ndarray:
        """Paste one face into its photo [H,W,3], of which a copy is returned."""
        from ...my3dgen_core.face import paste_back

        picture = self.faces[face]
        return paste_back(
            pixels,
            self.cuts.transforms[cut],
            picture[..., :3].permute(2, 0, 1) * 2 - 1,
            _opaque(picture, self.heads[face]),
            self.feather,
            self.old[face],
            self.wider,
        )


def _into_photos(
    new: _NewFaces, photos: list[Tensor], even: bool, node: str | None
) -> tuple[list[Tensor], list[str], Any]:
    """Paste into pictures; where they are all frames of a video, write that too.

    Returns:
        The output photos, the lines of the report, and the VIDEO or None.
    """
    from ...my3dgen_core.formats.video_file import write_video

    on_step = host.progress(node, "photo")
    flat = [
        photo
        for batch in picture_inputs.checked_pictures(photos, "photos")
        for photo in picture_inputs.over_white(batch)
    ]
    pasted: list[Tensor] = []
    unchanged: list[int] = []
    places = _places(new.cuts, len(flat), len(new.faces))
    for step, (photo, face, cut) in enumerate(places):
        on_step(step, len(places))
        picture = flat[photo].cpu()
        if face is None:
            unchanged.append(photo + 1)
        else:
            picture = torch.from_numpy(new.paste(picture.numpy(), face, cut))
        pasted.append(picture[None])
    lines = _counted(len(pasted), unchanged, "photos")
    if len({picture.shape for picture in pasted}) == 1:
        batch = torch.cat(pasted)
        if len(batch) > 1 and even:
            batch = socket_types.even_sides(batch)
        if batch.shape[1:3] != pasted[0].shape[1:3]:
            lines += [_cut_to_even(*batch.shape[1:3])]
        pasted = [batch]
    video = None
    source = new.cuts.source
    if source is not None and source.chosen is None:
        if len(pasted) == 1 and len(pasted[0]) == new.cuts.photo_count:
            clip, path = source.clip, host.temporary_path("my3dgen_pasted", ".mp4")
            step_of_time = max(1, round(1 / clip.rate / clip.time_base))
            frames = (
                ((frame.cpu() * 255).round().byte().numpy(), index * step_of_time)
                for index, frame in enumerate(socket_types.even_sides(pasted[0]))
            )
            write_video(path, frames, clip, clip.sound())
            video = host.video_of(path)
        else:
            video = host.blocked("The photos are not the frames of the video: disconnect photos.")
    return [host.to_host(picture) for picture in pasted], lines, video


def _into_frames(
    new: _NewFaces, source: socket_types.ClipFrames, even: bool, node: str | None
) -> tuple[list[Any], list[str], Any]:
    """Paste into the frames of a video as they are decoded, and write them as they come.

    Returns:
        The output photos, the lines of the report, and the VIDEO, or None for single frames.
    """
    from ...my3dgen_core.formats.video_file import write_video

    clip, count = source.clip, new.cuts.photo_count
    on_step = host.progress(node, "frame")
    own = {photo: cut for cut, photo in enumerate(new.cuts.photos)}
    kept: list[np.ndarray] = []
    unchanged: list[int] = []
    size = (0, 0)

    def pasted() -> Iterator[tuple[np.ndarray, int]]:
        nonlocal size
        for step, frame in enumerate(clip.frames(source.chosen)):
            on_step(step + 1, max(count, step + 1))
            pixels = frame.pixels
            if step in own:
                pixels = new.paste(pixels, own[step], own[step])
            else:
                unchanged.append(step + 1)
            if source.chosen is None:
                size = (pixels.shape[0], pixels.shape[1])
                pixels = pixels[: size[0] // 2 * 2, : size[1] // 2 * 2]
            if count * pixels.size * 4 <= MOST_BYTES:
                kept.append(pixels)
            yield np.ascontiguousarray(pixels), frame.pts

    video = None
    with host.rendering():
        if source.chosen is None:
            path = host.temporary_path("my3dgen_pasted", ".mp4")
            write_video(path, pasted(), clip, clip.sound())
            video = host.video_of(path)
        else:
            for _ in pasted():
                pass
    lines = _counted(count, unchanged, "frames")
    if size[0] % 2 or size[1] % 2:
        lines += [_cut_to_even(size[0] // 2 * 2, size[1] // 2 * 2)]
    if not kept:
        note = (
            f"The output photos is empty: {count} frames of this size would need more than "
            f"{MOST_BYTES >> 30} GB. Use the output video."
        )
        return [host.blocked(note)], [*lines, note], video
    pictures = [torch.from_numpy(pixels)[None].float() / 255 for pixels in kept]
    if len({picture.shape for picture in pictures}) == 1:
        pictures = [torch.cat(pictures)]
        if even and len(pictures[0]) > 1:
            pictures = [socket_types.even_sides(pictures[0])]
    return [host.to_host(picture) for picture in pictures], lines, video


def _counted(count: int, unchanged: list[int], what: str) -> list[str]:
    """Return the lines of the report about photos (or `what`) with a new face, and those without."""
    lines = [f"{count - len(unchanged)} of {count} {what} have a new face."]
    if unchanged:
        lines += [f"Unchanged, because Align Faces gave no crop of them: {_ranges(unchanged)}."]
    return lines


def _cut_to_even(height: int, width: int) -> str:
    return f"Cut to {width}x{height} pixels: video encoders take only even sides."


def _masks(masks: Any, faces: list[Tensor], name: str) -> list[Tensor | None]:
    """Return one square mask [1, s, s] in its own size per face [H, W, C], or None where there is none."""
    from ...my3dgen_core.common.image_ops import resize

    each = picture_inputs.masks_of(masks, [(face.shape[0], face.shape[1]) for face in faces], name)
    return [None if mask is None else resize(mask[None, None].cpu(), max(mask.shape))[0] for mask in each]


def _opaque(face: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return the mask [1, s, s] of a face [H, W, 3 or 4] without the face's transparent pixels."""
    from ...my3dgen_core.common.image_ops import resize

    if face.shape[-1] == 3:
        return mask
    opacity = face[None, None, ..., 3]
    return opacity[0] if mask is None else mask * resize(opacity, mask.shape[-1])[0]


def _ranges(numbers: list[int]) -> str:
    """Write ascending numbers as ranges, such as "1, 9 to 25"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def _places(cuts: socket_types.Crops, photos: int, faces: int) -> list[tuple[int, int | None, int]]:
    """Return (photo, face, crop) of every picture of the result; the face is None where there is none.

    Raises:
        ValueError: the numbers of photos, crops and faces do not match.
    """
    if len(cuts) == 1 and photos in (1, cuts.photo_count) and (photos == 1 or faces > 1):
        return [(0 if photos == 1 else cuts.photos[0], face, 0) for face in range(faces)]
    if faces != len(cuts):
        raise ValueError(
            f"There are {faces} new faces for {len(cuts)} crops. Give one per crop, in their order."
        )
    if photos == cuts.photo_count:
        own = {photo: cut for cut, photo in enumerate(cuts.photos)}
        return [(photo, own.get(photo), own.get(photo, 0)) for photo in range(photos)]
    if photos == faces:
        return [(cut, cut, cut) for cut in range(faces)]
    raise ValueError(
        f"Paste Back got {photos} photos, but Align Faces saw {cuts.photo_count}. "
        "Connect the same photos to both."
    )
