"""Small videos for the tests, written by PyAV: known frames, times and sound."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

RATE = 48000
"""Samples of the sound per second."""


def tone(seconds: float, channels: int = 2) -> np.ndarray:
    """A tone of 440 Hz, [channels, S] float32."""
    wave = np.sin(np.arange(round(seconds * RATE)) * (2 * np.pi * 440 / RATE)) * 0.5
    return np.tile(wave.astype(np.float32), (channels, 1))


def counted(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames [H,W,3] whose brightness tells their number."""
    return [np.full((height, width, 3), 20 + 8 * index, np.uint8) for index in range(count)]


def write(
    path: Path | io.BytesIO,
    frames: Iterable[np.ndarray],
    rate: Fraction | int = 25,
    sound: np.ndarray | None = None,
    times: Sequence[int] | None = None,
    container: str = "mp4",
    codec: str = "h264",
    options: dict[str, str] | None = None,
    **context: Any,
) -> Any:
    """Write a video; `times` are in milliseconds, and `context` sets fields of the encoder."""
    target = path if isinstance(path, io.BytesIO) else str(path)
    with av.open(target, "w", format=container) as output:
        stream, track = None, None
        for index, pixels in enumerate(frames):
            if stream is None:
                stream = output.add_stream(codec, rate=rate, options=options or {"crf": "10"})
                stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
                if times is not None:
                    stream.codec_context.time_base, stream.codec_context.max_b_frames = Fraction(1, 1000), 0
                for name, value in context.items():
                    setattr(stream.codec_context, name, value)
                if sound is not None:
                    track = output.add_stream(
                        "aac", rate=RATE, layout="stereo" if len(sound) == 2 else "mono"
                    )
            space = {"dst_colorspace": context["colorspace"]} if "colorspace" in context else {}
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p", **space)
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        if stream is not None:
            output.mux(stream.encode(None))
        if sound is not None:
            track = track or output.add_stream("aac", rate=RATE, layout="stereo")
            block = av.AudioFrame.from_ndarray(
                sound, format="fltp", layout="stereo" if len(sound) == 2 else "mono"
            )
            block.sample_rate, block.pts = RATE, 0
            output.mux(track.encode(block))
            output.mux(track.encode(None))
    return path


def turned(path: Path) -> Path:
    """Set the display matrix of an MP4 file to a quarter turn clockwise: (x, y) -> (height - y, x)."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd")
    assert content[at + 4] == 0  # the version with times of 32 bits
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    content[at + 44 : at + 80] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(content)
    return path
