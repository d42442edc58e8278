"""Anchors to a personal generator: My3DGen's training (WACV 2025, section 3), or full fine-tuning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .adapter import DIFF, Adapter, swapped
from .eg3d import Generator
from .identity import Identity
from .latents import Latents
from .objective import Draw, PhotoObjective, check_photos
from .randomness import Shuffled

OnStep = Callable[[int, int, dict[str, float], Tensor | None], None]
METHODS = ("lora", "full")


@dataclass(frozen=True)
class TuningConfig:
    """Settings of `personalize`.

    Adam without momentum, as the paper; the rates fall to a twentieth along a cosine, which reaches the
    loss of a constant rate in a fraction of the steps. Example: `TuningConfig(steps=400, rank=1)`.
    """

    steps: int = 400
    """Optimiser steps."""
    method: str = "lora"
    """"lora": a low-rank adapter; "full": every parameter but the mapping network's."""
    rank: int = 1
    layout: str = "released"
    """Shape of the low-rank update of a 3x3 kernel: "released" (the authors' code) or "lycoris" (leaner)."""
    trainable: str = "paper"
    """Trained beside the low-rank tensors: "lora" nothing, "released" biases, noise strengths and the
    constant input, "paper" biases, noise strengths and the decoder (240,030 numbers at ffhq512-128, rank
    1)."""
    batch_size: int = 1
    """Photos a step."""
    patch: int = 32
    """Edge in raw pixels of the square looked at in each photo and step; 0: whole pictures, as in the
    paper."""
    lr: float = 2e-2
    """Rate of convolutions and ToRGB."""
    affine_lr: float = 4e-3
    """Rate of the affines, whose path has no weight gain and moves that much faster."""
    diff_lr: float = 4e-3
    """Rate of biases, noise strengths, constant and decoder; of everything when method is "full"."""
    perceptual: float = 0.5
    """Weight of the perceptual term."""
    seed: int = 0
    preview_every: int = 25
    """Steps between two preview pictures; 0: none."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}.")
        if self.steps < 1 or self.batch_size < 1 or self.patch < 0:
            raise ValueError("steps and batch_size must be at least 1, patch at least 0.")


def personalize(
    generator: Generator,
    images: Tensor,
    anchors: Latents,
    config: TuningConfig = TuningConfig(),
    masks: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Identity:
    """Trains an adapter so that every anchor renders its photo.

    Args:
        generator: frozen, and untouched: bit-identical afterwards, also when `on_step` raises.
        images: [N, 3, H, H] in [-1, 1], any size.
        anchors: the photos' latents with their cameras, from `invert`; both stay as they are.
        masks: [N, 1, H, H], 1 = invented pixel, not looked at.
        on_step: called as (step, total, losses, preview [1, 3, R, R] or None); what it raises ends the work.

    Returns:
        `Identity` with the adapter, the anchors, the settings and the loss of every step.

    Raises:
        ValueError: photos, masks and anchors that do not belong together.
        FloatingPointError: the loss became NaN or infinite.
    """
    if anchors.cameras is None:
        raise ValueError("These latents have no cameras. Take anchors from Invert, or give their cameras.")
    check_photos(images, masks, anchors.cameras)
    with torch.inference_mode(False), torch.enable_grad():
        device = generator.w_avg.device
        fixed = Latents(anchors.ws.detach().clone(), anchors.cameras.detach().clone()).to(device)
        assert fixed.cameras is not None
        objective = PhotoObjective(generator, images, masks, config.perceptual)
        if config.method == "full":
            adapter = Adapter.full(generator)
        else:
            adapter = Adapter.create(
                generator, config.rank, config.layout, config.trainable, seed=config.seed
            )
        optimizer = torch.optim.Adam(parameter_groups(adapter, config), betas=(0.0, 0.99))
        rates = [group["lr"] for group in optimizer.param_groups]
        parameters = dict(generator.named_parameters())
        draw = Draw(config.seed, device)
        order = Shuffled(len(images), config.seed)
        history: list[float] = []
        for step in range(config.steps):
            decay = 0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * step / config.steps))
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * decay
            index = order.take(config.batch_size)
            with swapped(generator, adapter.composed(parameters)):
                ws, cameras = fixed.ws[index], fixed.cameras[index]
                planes = generator.planes(ws)
                size = config.patch or objective.resolution
                loss = objective.patch(ws, planes, cameras, index, size, draw).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            history.append(float(loss.detach()))
            if not math.isfinite(history[-1]):
                raise FloatingPointError(
                    f"The loss became {history[-1]} at step {step + 1}. Lower the learning rates."
                )
            optimizer.step()
            if on_step is not None:
                every = config.preview_every
                wanted = every and ((step + 1) % every == 0 or step + 1 == config.steps)
                preview = _preview(generator, adapter, parameters, fixed) if wanted else None
                on_step(step + 1, config.steps, {"loss": history[-1]}, preview)
    tensors = {key: value.detach() for key, value in adapter.tensors.items()}
    base_hash = generator.base_hash()
    return Identity(
        dataclasses.replace(adapter, tensors=tensors),
        dataclasses.replace(anchors, base_hash=base_hash),
        base_hash,
        {"settings": dataclasses.asdict(config), "photos": len(images), "final_loss": history[-1]},
        history,
    )


def parameter_groups(adapter: Adapter, config: TuningConfig) -> list[dict[str, object]]:
    """The adapter's tensors, made trainable, in groups of equal learning rate."""
    groups: dict[float, list[Tensor]] = {}
    for key, tensor in adapter.tensors.items():
        tensor.requires_grad_(True)
        if key.endswith(DIFF):
            rate = config.diff_lr
        elif ".affine." in key:
            rate = config.affine_lr
        else:
            rate = config.lr
        groups.setdefault(rate, []).append(tensor)
    return [{"params": tensors, "lr": rate} for rate, tensors in groups.items()]


@torch.no_grad()
def _preview(
    generator: Generator, adapter: Adapter, parameters: Mapping[str, Tensor], anchors: Latents
) -> Tensor:
    assert anchors.cameras is not None
    with swapped(generator, adapter.composed(parameters)):
        return generator.render(anchors.ws[:1], anchors.cameras[:1]).image
