"""Image scores by text: ComfyUI's CLIP and CLIP_VISION as a labeler for direction finding."""

from __future__ import annotations

from typing import Any

import torch

from .. import socket_types


def text_labeler(words: str, opposite: str, clip: Any, clip_vision: Any) -> Any:
    """Return a labeler that scores images by their CLIP similarity to a text.

    Args:
        words: the text.
        opposite: text whose similarity is subtracted.
        clip, clip_vision: ComfyUI's text and image encoder of one CLIP model.

    Raises:
        ValueError: an encoder is missing, or is no CLIP.
    """
    from ...my3dgen_core.editing.face_scores import TextSimilarity

    if clip is None or clip_vision is None:
        raise ValueError("For 'words', connect clip and clip_vision: text and image encoder of one CLIP.")

    def embed(images: torch.Tensor) -> torch.Tensor:
        return clip_vision.encode_image(socket_types.pictures_to_host(images))["image_embeds"]

    return TextSimilarity(words, embed, embed_text(clip, words), embed_text(clip, opposite))


def embed_text(clip: Any, text: str) -> torch.Tensor:
    """Return the embedding [1, d] of a text in CLIP's joint space of texts and images.

    ComfyUI's text encoder of SD 1 returns its pooled output without the projection into that space. Therefore
    the unprojected output is requested, and the projection applied here.

    Raises:
        ValueError: the encoder has no pooled output, or no projection.
    """
    tokens, model = clip.tokenize(text), getattr(clip, "cond_stage_model", None)
    encoder = getattr(model, getattr(model, "clip", ""), None)
    projection = getattr(getattr(encoder, "transformer", None), "text_projection", None)
    if projection is None:  # several encoders in one, whose output ComfyUI projects
        found = clip.encode_from_tokens(tokens, return_pooled=True)[1]
    else:
        found = clip.encode_from_tokens(tokens, return_pooled="unprojected")[1]
        if found is not None:
            found = projection(found.float())
    if found is None:
        raise ValueError(
            "This text encoder has no pooled output: it is not a CLIP. Load CLIP's text and image encoder, "
            "such as clip_l and the clip_vision of ViT-L."
        )
    if not bool(torch.isfinite(found).all()) or not bool(found.any()):
        raise ValueError(
            "This CLIP's text encoder has no projection into the space of its images: checkpoints of SD 1 "
            "lack it. Load the encoder from a file that has text_projection, such as clip_l of SDXL or Flux."
        )
    return found
