"""Videos that arrive at nodes, as clips of the core: frames decoded as they are needed, rate, sound."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from . import host, picture_inputs

if TYPE_CHECKING:
    from ..my3dgen_core.formats.video_file import Clip, Sound, VideoFrame


def clip_of(video: Any, name: str = "video") -> Clip:
    """Return the clip of a VIDEO input.

    Args:
        video: the input's list with one VIDEO.
        name: name of the input, for messages.

    Raises:
        ValueError: several videos, no VIDEO, or one that cannot be read or has no pictures.
    """
    from ..my3dgen_core.formats.video_file import VideoFile

    videos = video if isinstance(video, list) else [video]
    if len(videos) != 1:
        raise ValueError(f"The input {name!r} got {len(videos)} videos. Connect one.")
    held = host.held_video(videos[0])
    if held is not None:
        return HeldClip(held, name)
    if not hasattr(videos[0], "get_stream_source"):
        raise ValueError(
            f"The input {name!r} must be a VIDEO, but got {type(videos[0]).__name__}. Connect Load Video."
        )
    if hasattr(videos[0], "get_active_trim_window"):
        return VideoFile(videos[0].get_stream_source(), *videos[0].get_active_trim_window())
    if hasattr(videos[0], "as_trimmed"):  # some versions trim without saying where: let them write the part
        part = io.BytesIO()
        videos[0].save_to(part)
        return VideoFile(part)
    return VideoFile(videos[0].get_stream_source())


class HeldClip:
    """A clip whose frames are in memory, such as those of Create Video."""

    colors: dict[str, int] = {}

    def __init__(self, components: Any, name: str) -> None:
        """Take over the components of a VIDEO.

        Args:
            components: images [N,H,W,C], frame_rate, and audio or None.
            name: name of the input, for messages.
        """
        self._pictures = components.images
        self._audio = components.audio
        self._name = name
        self.rate = Fraction(components.frame_rate).limit_denominator(10000)
        self.time_base = 1 / self.rate
        if not len(self._pictures):
            raise ValueError(f"The video of the input {name!r} has no frame.")

    def __len__(self) -> int:
        return len(self._pictures)

    def frames(self, chosen: Collection[int] | None = None) -> Iterator[VideoFrame]:
        """Convert the frames in order, all or those with the chosen indices."""
        from ..my3dgen_core.formats.video_file import VideoFrame

        for index in range(len(self._pictures)) if chosen is None else sorted(chosen):
            (picture,) = picture_inputs.checked_pictures(self._pictures[index : index + 1], self._name)
            pixels = (picture_inputs.over_white(picture)[0].cpu() * 255).round().byte()
            yield VideoFrame(index, pixels.numpy(), index)

    def sound(self) -> Sound | None:
        """Return the sound, with one, two or six channels."""
        from ..my3dgen_core.formats.video_file import Sound

        if not self._audio:
            return None
        samples = self._audio["waveform"][0].detach().float().cpu().numpy()
        if len(samples) not in (1, 2, 6):
            samples = samples[:2]
        return Sound(np.ascontiguousarray(samples), int(self._audio["sample_rate"]))


class FramesAsPhotos:
    """Frames of a clip as lazy photos for the core's alignment, which notes small copies for the report."""

    def __init__(self, clip: Clip, chosen: tuple[int, ...] | None = None) -> None:
        """Store what to read.

        Args:
            clip: the clip.
            chosen: indices of the frames to read; None: all.
        """
        self._clip, self._chosen = clip, chosen
        self.small: list[tuple[str, np.ndarray]] = []
        """Name and small copy, uint8, of the first frames that were read."""
        self.sizes: list[tuple[int, int]] = []
        """Height and width of each frame in `small`."""

    def __len__(self) -> int:
        return len(self._clip) if self._chosen is None else len(self._chosen)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        from ..my3dgen_core.face.align import thumbnail_of
        from .server.alignment_report import MAX_PHOTOS, PIXELS

        noted = len(self.small)
        for count, frame in enumerate(self._clip.frames(self._chosen)):
            name = f"frame {frame.index + 1}"
            if noted <= count < MAX_PHOTOS:
                self.small.append((name, thumbnail_of(frame.pixels, PIXELS)))
                self.sizes.append((frame.pixels.shape[0], frame.pixels.shape[1]))
            yield name, frame.pixels


def audio_of(sound: Sound | None) -> dict[str, Any] | None:
    """Convert sound to AUDIO, None if there is none."""
    if sound is None:
        return None
    waveform: Tensor = torch.from_numpy(sound.samples)[None]
    return {"waveform": waveform, "sample_rate": sound.rate}
