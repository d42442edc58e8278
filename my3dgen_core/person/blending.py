"""Blending of identities: weighted sums, and interpolation from one person to another.

An identity is an update of the generator's weights, so that identities blend linearly: w1 * update1 + w2 *
update2 is the update of a person between two, and w1 * anchor1 + w2 * anchor2 a latent of that person.
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
from .latents import Latents, check_not_empty


def mix_persons(identities: Sequence[Identity], weights: Sequence[float]) -> Identity:
    """Blend several identities into one whose update is exactly their weighted sum; the ranks add up.

    Its anchors are the first person's, each blended with the anchors of the others whose cameras are nearest.

    Args:
        identities: identities of one generator, none of them tuned on top of another.
        weights: one finite number for each; as a rule they sum to 1.

    Raises:
        ValueError: identities of different generators, an identity tuned on top of another, or weights that
            are not finite or not one for each identity, or an identity without anchors after one with some.
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
    """Blend the first person's anchors with those anchors of the others whose cameras are nearest.

    Args:
        anchors: anchors of each person, [N_i, num_ws, w_dim].
        weights: one for each person.

    Returns:
        Latents [N_0, num_ws, w_dim], with rigid cameras if all persons have some and the weights do not sum
        to 0.

    Raises:
        ValueError: the first person has anchors, and another has none.
    """
    first = anchors[0]
    for other in anchors if len(first) else ():
        check_not_empty(other)
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
    """Render the interpolation from one person to another: update, latent and camera change together.

    Args:
        generator: the base generator, with no identity applied.
        first, second: the two identities.
        latents: [2, num_ws, w_dim], a latent of the first person and one of the second.
        t: [n], 0 is the first person and 1 the second.
        cameras: [n, 25] or [1, 25]; None: interpolated between the cameras of the two latents.
        on_step: progress callback; its image is the last one rendered [1, 3, R, R].

    Returns:
        Images [n, 3, R, R] on the CPU.

    Raises:
        ValueError: not two latents, no cameras, or identities of a generator of another shape.
    """
    if len(latents) != 2:
        raise ValueError(f"An interpolation has two ends, but {len(latents)} latents were given.")
    device, t = generator.w_avg.device, t.detach().cpu().float()
    if cameras is None:
        if latents.cameras is None:
            raise ValueError("The latents have no cameras of their own: give cameras.")
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
    """Return the weighted sum of adapters.

    Low-rank factors are concatenated and differences added. A module with both gets one difference.
    """
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
    """Return, for each anchor of the first, the index of the other's anchor with the nearest camera [N]."""
    device = first.ws.device
    if first.cameras is None or other.cameras is None:
        return torch.arange(len(first), device=device) % len(other)
    places = [
        cam2world(cameras.to(device, torch.float32))[:, :3, 3] for cameras in (first.cameras, other.cameras)
    ]
    return torch.cdist(places[0], places[1]).argmin(1)
