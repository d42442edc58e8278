"""Progress of a running node: progress bar, text, pictures under the node, and cancellation."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from . import comfyui
from .comfyui import log
from .page import sendable
from .saved_files import save_temporary

PREVIEW_PIXELS = 320
"""Longest side of the preview that ComfyUI shows during a node's work."""
TEXT_INTERVAL = 0.5
"""Seconds between two updates of the text under a node."""


def check_canceled() -> None:
    """Raise ComfyUI's InterruptProcessingException if the user pressed cancel."""
    if comfyui.folder_paths is not None:
        from comfy import model_management

        model_management.throw_exception_if_processing_interrupted()


def interruptions() -> tuple[type[BaseException], ...]:
    """Return the exceptions that `check_canceled` raises, for `except`; none outside ComfyUI."""
    if comfyui.folder_paths is None:
        return ()
    from comfy import model_management

    return (model_management.InterruptProcessingException,)


def progress(node_id: str | None, what: str = "") -> Callable[..., None]:
    """Return an `on_step` for the core: progress bar, preview, text under the node, cancellation.

    Args:
        node_id: id of the node that shows it.
        what: name of the work, or of its unit, for the text.

    Returns:
        on_step(step, total, losses=None, image=None); image is [1, 3, h, w] in [-1, 1].
    """
    if comfyui.folder_paths is None:
        return lambda step, total, losses=None, image=None: None
    from comfy.utils import ProgressBar

    bar = ProgressBar(1, node_id=node_id)
    shown = 0.0

    def on_step(
        step: int, total: int, losses: dict[str, float] | None = None, image: Tensor | None = None
    ) -> None:
        nonlocal shown
        check_canceled()
        bar.update_absolute(
            step, total, None if image is None else ("JPEG", to_pillow(image), PREVIEW_PIXELS)
        )
        now = time.monotonic()
        if now - shown > TEXT_INTERVAL or step >= total:
            shown = now
            terms = "  ".join(f"{name} {value:.4g}" for name, value in (losses or {}).items())
            send_text(node_id, f"{what} {step}/{total}  {terms}".strip())

    return on_step


def to_pillow(image: Tensor) -> Any:
    """Convert [1, 3, h, w] in [-1, 1] to a Pillow image."""
    from PIL import Image

    from ...my3dgen_core.common.image_ops import to_pixels

    return Image.fromarray(to_pixels(image[0]))


def send_text(node_id: str | None, text: str) -> None:
    """Show a text under a node on the page of the running prompt, if there is one."""
    server = comfyui.server()
    if server is not None and node_id is not None:
        server.send_progress_text(sendable(text), node_id, server.client_id)


def report(node_id: str | None, text: str) -> dict[str, list[str]]:
    """Log a node's text, show it under the node, and return the `ui` entry that keeps it in the history."""
    text = sendable(text)
    log.info("%s", text)
    send_text(node_id, text)
    return {"text": [text]}


def preview(images: Tensor) -> dict[str, list[dict[str, str]]]:
    """Save IMAGE [B,H,W,3] to the temporary folder and return the `ui` entry that shows it on the node."""
    if comfyui.folder_paths is None:
        return {}
    entries = []
    for picture in images:
        file = io.BytesIO()
        to_pillow(picture.permute(2, 0, 1)[None] * 2 - 1).save(file, "PNG", compress_level=1)
        entries.append(save_temporary("my3dgen_preview", ".png", file.getvalue()))
    return {"images": entries}


def jpeg(image: Tensor, quality: int = 88) -> bytes:
    """Encode [1, 3, h, w] in [-1, 1] as JPEG."""
    file = io.BytesIO()
    to_pillow(image).save(file, "JPEG", quality=quality)
    return file.getvalue()
