"""Videos, decoded and encoded one frame at a time: no more than a few frames are in memory.

Uses PyAV, which ComfyUI requires and this package does not.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..common.heap import release_freed

QUALITY = {"crf": "16", "preset": "veryfast"}
"""Options of the H.264 encoder: little loss, and a short look-ahead, which holds frames in memory."""
_THREADS = 4  # of a decoder or encoder, each of which holds frames
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
_FRAMES_BETWEEN_RELEASES = 10  # of freed memory
_UNTAGGED = 2  # FFmpeg's "unspecified" of color space, primaries and transfer


class VideoError(ValueError):
    """Error for a video that cannot be read or written; the message says why and what to do."""


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video."""

    index: int
    """Position among the frames, from 0."""
    pixels: np.ndarray
    """Upright picture [H,W,3] uint8."""
    pts: int
    """Time from the first frame, in units of the clip's `time_base`."""


@dataclass(frozen=True)
class Sound:
    """Sound of a video."""

    samples: np.ndarray
    """Samples [channels, S] float32, beginning with the first frame."""
    rate: int
    """Samples per second."""


class Clip(Protocol):
    """Frames that can be read again and again, with their timing and sound."""

    rate: Fraction
    """Mean number of frames per second."""
    time_base: Fraction
    """Unit of the frames' `pts` in seconds."""
    colors: dict[str, int]
    """FFmpeg's numbers of the color space, where the source names it."""

    def __len__(self) -> int:
        """Return the number of frames; an estimate before they were read once."""
        ...

    def frames(self, chosen: Collection[int] | None = None) -> Iterator[VideoFrame]:
        """Decode the frames in order, all or those with the chosen indices."""
        ...

    def sound(self) -> Sound | None:
        """Decode the sound, or return None if there is none."""
        ...


class VideoFile:
    """A `Clip` in a file, decoded again each time.

    Frames are turned upright as the file's display matrix says. Damaged frames are left out, the same ones
    each time.
    """

    def __init__(self, source: str | io.BytesIO, start: float = 0.0, duration: float = 0.0) -> None:
        """Open the file and read what is known without decoding.

        Args:
            source: path, or the file's content.
            start: seconds that are left out at the beginning.
            duration: seconds that are used; 0: all.

        Raises:
            VideoError: it is no video, or has no pictures.
        """
        self._source, self._start, self._duration = source, start, duration
        with self._open() as container:
            stream = self._stream(container)
            self.rate = Fraction(stream.average_rate or stream.base_rate or 25)
            self.time_base = Fraction(stream.time_base)
            self.colors = _colors(stream.codec_context)
            seconds = float(stream.duration * self.time_base) if stream.duration else None
            if seconds is None and container.duration:
                seconds = container.duration / 1_000_000
            if stream.frames and not start and not duration:
                self._count = int(stream.frames)
            else:
                left = max((seconds or 0.0) - start, 0.0)
                self._count = round(float(self.rate) * (min(left, duration) if duration else left))

    def __len__(self) -> int:
        return self._count

    def frames(self, chosen: Collection[int] | None = None) -> Iterator[VideoFrame]:
        """Decode the frames in order, all or those with the chosen indices.

        Raises:
            VideoError: there is no frame that can be decoded.
        """
        last = None if chosen is None else max(chosen, default=-1)
        first, index = None, 0
        with self._open() as container:
            for frame in self._decoded(container):
                if index % _FRAMES_BETWEEN_RELEASES == 0:
                    release_freed()
                first = frame.pts if first is None else first
                if chosen is None or index in chosen:
                    yield VideoFrame(index, _upright(frame), frame.pts - first)
                index += 1
                if last is not None and index > last:
                    return
        if not index:
            raise VideoError("No frame of the video can be decoded. Is it damaged, or trimmed to nothing?")
        self._count = index

    def sound(self) -> Sound | None:
        """Decode the sound of the frames' time, or return None if there is none.

        More than two channels become stereo, but for six.
        """
        av = _av()
        with self._open() as container:
            stream = next((s for s in container.streams.audio if s.codec_context is not None), None)
            if stream is None:
                return None
            begin = self._start
            rate, parts, resampler = 0, [], None
            for packet in container.demux(stream):
                try:
                    decoded = packet.decode()
                except av.error.FFmpegError:
                    continue
                for frame in decoded:
                    if resampler is None:
                        rate = frame.sample_rate if frame.sample_rate in _AAC_RATES else 48000
                        layout = _LAYOUTS.get(frame.layout.nb_channels, "stereo")
                        resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
                        at = float(frame.time or 0.0)
                    parts += [part.to_ndarray() for part in resampler.resample(frame)]
            if resampler is None:
                return None
            parts += [part.to_ndarray() for part in resampler.resample(None)]
        samples = np.concatenate(parts, axis=1)
        with self._open() as container:
            shown = next(self._decoded(container), None)
            begin = begin if shown is None or shown.time is None else float(shown.time)
        skip = round((begin - at) * rate)
        samples = samples[:, skip:] if skip >= 0 else np.pad(samples, ((0, 0), (-skip, 0)))
        if self._duration:
            samples = samples[:, : math.ceil(self._duration * rate)]
        return Sound(np.ascontiguousarray(samples), rate) if samples.size else None

    def _open(self) -> Any:
        """Open the container; the caller closes it.

        Raises:
            VideoError: it cannot be opened.
        """
        av = _av()
        if isinstance(self._source, io.BytesIO):
            self._source.seek(0)
        try:
            return av.open(self._source, mode="r")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            name = f" {os.path.basename(self._source)!r}" if isinstance(self._source, str) else ""
            reason = getattr(error, "strerror", None) or error
            raise VideoError(
                f"The video{name} cannot be opened ({reason}). It is missing, empty, damaged or of an "
                "unknown kind: load it again, or convert it to MP4."
            ) from error

    @staticmethod
    def _stream(container: Any) -> Any:
        """Return the video stream to decode; the picture on the cover of a song is none."""
        av = _av()
        cover = getattr(getattr(av.stream, "Disposition", None), "attached_pic", 0)
        for stream in container.streams.video:
            if stream.codec_context is not None and not (cover and stream.disposition & cover):
                stream.thread_type = "AUTO"
                stream.codec_context.thread_count = min(_THREADS, os.cpu_count() or 1)
                return stream
        raise VideoError("This file has no pictures, only sound. Choose a video with pictures.")

    def _decoded(self, container: Any) -> Iterator[Any]:
        """Decode the frames between start and end, each with a `pts` above that of the one before."""
        av = _av()
        stream = self._stream(container)
        begin = int(self._start / self.time_base)
        end = int((self._start + self._duration) / self.time_base) if self._duration else None
        step = max(1, round(1 / self.rate / self.time_base))
        last = None
        if begin:
            container.seek(begin, stream=stream)
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in decoded:
                if frame.pts is not None and frame.pts < begin:
                    continue
                if end is not None and frame.pts is not None and frame.pts >= end:
                    return
                if frame.pts is None or (last is not None and frame.pts <= last):
                    frame.pts = begin if last is None else last + step
                last = frame.pts
                yield frame


def write_video(
    path: Path, frames: Iterable[tuple[np.ndarray, int]], clip: Clip, sound: Sound | None = None
) -> None:
    """Encode frames to MP4 (H.264, AAC) as they come.

    Args:
        path: file to write; removed again if writing fails.
        frames: pictures [H,W,3] uint8 of one size with even sides, and their `pts`.
        clip: whose rate, unit of time and colors the file takes over.
        sound: sound from the first frame on; cut to the length of the pictures.

    Raises:
        VideoError: there is no frame, or the sizes differ or are odd.
    """
    av = _av()
    if sound is not None and sound.rate not in _AAC_RATES:
        raise VideoError(f"MP4 files have no sound of {sound.rate} samples per second: resample it to 48000.")
    output: Any = None
    stream: Any = None
    track: Any = None
    size = (0, 0)
    written = 0

    def encode_sound(until: Fraction) -> None:
        nonlocal written
        assert sound is not None
        last = min(sound.samples.shape[1], math.ceil(until * sound.rate))
        if last > written:
            block = np.ascontiguousarray(sound.samples[:, written:last])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=_LAYOUTS[len(block)])
            frame.sample_rate, frame.pts, frame.time_base = sound.rate, written, Fraction(1, sound.rate)
            output.mux(track.encode(frame))
            written = last

    try:
        for pixels, pts in frames:
            if output is None:
                size = (pixels.shape[0], pixels.shape[1])
                if size[0] % 2 or size[1] % 2:
                    raise VideoError(f"A video needs even sides, not {size[1]}x{size[0]}.")
                output = av.open(str(path), mode="w", format="mp4")
                stream = output.add_stream("h264", rate=clip.rate, options=QUALITY)
                stream.height, stream.width, stream.pix_fmt = size[0], size[1], "yuv420p"
                context = stream.codec_context
                context.time_base, context.max_b_frames = clip.time_base, 0  # B frames would move odd times
                context.thread_count = min(_THREADS, os.cpu_count() or 1)
                for name, value in clip.colors.items():
                    setattr(context, name, value)
                if sound is not None:
                    track = output.add_stream("aac", rate=sound.rate, layout=_LAYOUTS[len(sound.samples)])
            if pixels.shape[:2] != size:
                raise VideoError(
                    f"The size of the frames changes from {size[1]}x{size[0]} to {pixels.shape[1]}x"
                    f"{pixels.shape[0]} in the middle of the video, which one file cannot hold."
                )
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            space = clip.colors.get("colorspace")
            frame = frame.reformat(format="yuv420p", **({} if space is None else {"dst_colorspace": space}))
            frame.pts, frame.time_base = pts, clip.time_base
            output.mux(stream.encode(frame))
            if sound is not None:
                encode_sound(pts * clip.time_base + 1 / clip.rate)
        if output is None:
            raise VideoError("There is no frame to write.")
        output.mux(stream.encode(None))
        if track is not None:
            output.mux(track.encode(None))
    except BaseException:
        if output is not None:
            output.close()
        path.unlink(missing_ok=True)
        raise
    output.close()


def _upright(frame: Any) -> np.ndarray:
    """Convert a decoded frame to [H,W,3] uint8, turned by its display matrix in steps of 90 degrees."""
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _colors(context: Any) -> dict[str, int]:
    """Return the color space of a decoder where it is named."""
    names = ("colorspace", "color_primaries", "color_trc")
    found = {name: int(getattr(context, name, _UNTAGGED)) for name in names}
    return {name: value for name, value in found.items() if value not in (0, _UNTAGGED)}


def _av() -> Any:
    """Import PyAV.

    Raises:
        VideoError: it is not installed.
    """
    try:
        import av  # optional, and brings FFmpeg
    except ImportError as error:
        raise VideoError(f"Videos need PyAV: pip install av (the import said: {error}).") from error
    return av
