"""Between persons: identities mixed into one, and the way from one person to another.

An identity is what a person adds to the generator, so that persons mix as weights do: w1 * update1 + w2 *
update2 is a generator halfway between them, and w1 * anchor1 + w2 * anchor2 a latent it can show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..camera import blend_cameras, cam2world
from ..common.progress import OnStep
from ..eg3d import Generator
from .adapter import DIFF, DOWN, UP, Adapter
from .apply import personalized
from .identity import Identity
from .latents import Latents


def mix_persons(identities: Sequence[Identity], weights: Sequence[float]) -> Identity:
    """One identity whose update is the weighted sum of several, exactly: the ranks add up.

    Its anchors are the first person's, each mixed with that anchor of the others whose camera is nearest.

    Args:
        identities: of one generator, each with its whole update (no looks tuned on top of a person).
        weights: one for each; as a rule they sum to 1.

    Raises:
        ValueError: identities of different generators, weights that do not fit or are not finite, a look that
            was tuned on top of another identity.
    """
    if not identities or len(identities) != len(weights):
        raise ValueError(f"{len(identities)} identities need as many weights, not {len(weights)}.")
    if not all(map(math.isfinite, weights)):
        raise ValueError("The weights must be finite numbers.")
    first = identities[0]
    for other in identities:
        other.check_base(first.base_hash)
        if other.base_identity_hash is not None:
            raise ValueError(
                "One of the identities is a look that was tuned on top of another: mix persons themselves."
            )
    adapter = _mixed_adapter([identity.adapter for identity in identities], weights)
    provenance = {
        "mixed": [
            {"identity": identity.content_hash(), "weight": float(weight)}
            for identity, weight in zip(identities, weights, strict=True)
        ]
    }
    anchors = mix_anchors([identity.anchors for identity in identities], weights)
    return Identity(adapter, anchors, first.base_hash, provenance)


def mix_anchors(anchors: Sequence[Latents], weights: Sequence[float]) -> Latents:
    """The first person's anchors, each mixed with those of the others that were seen from nearest by."""
    first = anchors[0]
    rows = [_nearest(first, other) for other in anchors]
    amounts = torch.tensor(list(weights), dtype=first.ws.dtype, device=first.ws.device)
    ws = torch.stack([other.ws[row].to(first.ws) for other, row in zip(anchors, rows, strict=True)])
    mixed = torch.einsum("p,pnlw->nlw", amounts, ws)
    seen = [other.cameras for other in anchors]
    total = sum(weights)
    if any(cameras is None for cameras in seen) or abs(total) < 1e-6:
        return Latents(mixed, base_hash=first.base_hash)
    views = [cameras[row].to(first.ws) for cameras, row in zip(seen, rows, strict=True)]  # type: ignore[index]
    shares = (amounts / total)[None]
    cameras = torch.cat([blend_cameras(shares, torch.stack(one)) for one in zip(*views, strict=True)])
    return Latents(mixed, cameras, base_hash=first.base_hash)


def render_between(
    generator: Generator,
    first: Identity,
    second: Identity,
    latents: Latents,
    t: Tensor,
    cameras: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """The way from one person to another in pictures: update, latent and camera move together.

    Args:
        generator: bare.
        latents: the two ends [2, num_ws, w_dim]: of the first person and of the second.
        t: [n], 0 is the first person and 1 the second.
        cameras: [n, 25] or [1, 25]; None: from the camera of the one end to that of the other.
        on_step: called as (step, n, {}, picture) after each picture; what it raises ends the work.

    Returns:
        [n, 3, R, R] on the CPU.

    Raises:
        ValueError: not two latents, no cameras, or identities of another generator.
    """
    if len(latents) != 2:
        raise ValueError(f"The way between two persons has two ends, but {len(latents)} latents were given.")
    device, t = generator.w_avg.device, t.detach().cpu().float()
    if cameras is None:
        if latents.cameras is None:
            raise ValueError("The latents have no cameras of their own: say from where to look.")
        weights = torch.stack((1 - t, t), dim=1)
        cameras = blend_cameras(weights, latents.cameras.cpu())
    cameras = cameras.expand(len(t), -1).to(device)
    one, two = latents.ws.to(device)
    pictures = []
    for step, (share, camera) in enumerate(zip(t.tolist(), cameras, strict=True)):
        ws = torch.lerp(one, two, share)[None]
        with torch.no_grad(), personalized(generator, [first, second], [1 - share, share]):
            pictures.append(generator.render(ws, camera[None]).image)
        if on_step is not None:
            on_step(step + 1, len(t), {}, pictures[-1])
    return torch.cat([picture.cpu() for picture in pictures])


def _mixed_adapter(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """The weighted sum: low-rank parts side by side, differences added; parts of a module in both ways become
    one difference."""
    ups: dict[str, list[Tensor]] = {}
    downs: dict[str, list[Tensor]] = {}
    diffs: dict[str, Tensor] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for key, value in adapter.tensors.items():
            if key.endswith(UP):
                ups.setdefault(key.removesuffix(UP), []).append(value * (weight * adapter.scaling))
            elif key.endswith(DOWN):
                downs.setdefault(key.removesuffix(DOWN), []).append(value)
            else:
                diffs[key] = diffs.get(key, torch.zeros_like(value)) + weight * value
    gains = {name: gain for adapter in adapters for name, gain in adapter.gains.items()}
    tensors: dict[str, Tensor] = {}
    for module, parts in ups.items():
        up, down = torch.cat(parts, dim=1), torch.cat(downs[module], dim=0)
        name = f"{module}.weight{DIFF}"
        if name in diffs:
            diffs[name] = diffs[name] + (up @ down).view(diffs[name].shape) * gains.get(module, 1.0)
        else:
            tensors[module + UP], tensors[module + DOWN] = up, down
    layouts = {adapter.layout for adapter in adapters}
    layout = layouts.pop() if len(layouts) == 1 else ("lycoris" if tensors else "full")
    rank = sum(adapter.rank for adapter in adapters) if tensors else adapters[0].rank
    return Adapter({**tensors, **diffs}, rank, layout, 1.0, gains)


def _nearest(first: Latents, other: Latents) -> Tensor:
    """For each of the first person's anchors the number of the other's with the nearest camera."""
    device = first.ws.device
    if first.cameras is None or other.cameras is None:
        return torch.arange(len(first), device=device) % len(other)
    places = [
        cam2world(cameras.to(device, torch.float32))[:, :3, 3] for cameras in (first.cameras, other.cameras)
    ]
    return torch.cdist(places[0], places[1]).argmin(1)
