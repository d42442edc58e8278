"""The measures of `studies.alpha_space` that are plain arithmetic."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from my3dgen_core.fitting.losses import laplacian_distance


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def pairwise(views: Tensor) -> float | None:
    """Mean perceptual distance of two of the pictures."""
    with torch.no_grad():
        parts = [laplacian_distance(views[i : i + 1], views[i + 1 :]) for i in range(len(views) - 1)]
    return float(torch.cat(parts).mean()) if parts else None


def hidden_part(photos: Tensor, share: float) -> Tensor:
    """Masks [N, 1, H, H] of a square in the middle that holds this share of the picture."""
    size = photos.shape[-1]
    side = round(size * share**0.5)
    start = (size - side) // 2
    masks = torch.zeros(len(photos), 1, size, size)
    masks[:, :, start : start + side, start : start + side] = 1
    return masks


def own_drop(smiles: Tensor, cosines: Tensor) -> dict[str, Any]:
    """Likeness of a person's own photos [N] by their smiles [N]: the mean of the fifths that smile least, in
    between and most, and how much the lowest of the outer two falls short of the middle one."""
    order, fifth = smiles.argsort(), max(1, len(smiles) // 5)
    if len(order) < 3:
        return {"fifths": None, "drop": None}
    middle = (len(order) - fifth) // 2
    parts = (order[:fifth], order[middle : middle + fifth], order[-fifth:])
    least, between, most = (float(cosines[part].mean()) for part in parts)
    return {"fifths": [least, between, most], "drop": between - min(least, most)}


def smile_claim(steps: Tensor, smiles: Tensor, cosines: list[float | None], own: Tensor) -> dict[str, Any]:
    """How a sweep behaves over the range of smiles `own`.

    Returns:
        "drop": unedited likeness less the lowest within the range, its ends between two steps included;
        "covered": the share of the range that the sweep reaches; "rising": the share of those steps, up to
        the first one beyond on either side, at which the smile grows; the sweep itself.
    """
    sweep = [
        (float(step), float(smile), cosine)
        for step, smile, cosine in zip(steps, smiles, cosines, strict=True)
        if cosine is not None and bool(torch.isfinite(smile))
    ]
    found: dict[str, Any] = {"sweep": sweep, "drop": None, "covered": None, "rising": None}
    if len(sweep) < 2 or len(own) == 0:
        return found
    low, high = float(own.min()), float(own.max())
    values = [smile for _, smile, _ in sweep]
    reached = max(0.0, min(max(values), high) - max(min(values), low))
    found["covered"] = reached / (high - low) if high > low else 1.0
    middle = min(range(len(sweep)), key=lambda place: abs(sweep[place][0]))
    chosen, likeness = [middle], [sweep[middle][2]]
    for way, end in ((1, high), (-1, low)):
        place = middle
        while way * values[place] < way * end and 0 <= place + way < len(sweep):
            before, place = place, place + way
            chosen.append(place)
            step = values[place] - values[before]
            share = (end - values[before]) / step if way * values[place] > way * end else 1.0
            likeness.append(sweep[before][2] + share * (sweep[place][2] - sweep[before][2]))
    found["drop"] = likeness[0] - min(likeness)
    found["rising"] = mean([float(values[b] > values[a]) for a, b in itertools.pairwise(sorted(chosen))])
    return found


def nearest_smiles(steps: Tensor, smiles: Tensor, own: Tensor) -> list[int]:
    """Which steps of a sweep to show: seven, nearest to the least smile of `own`, to the unedited one, and to
    the most, and to two on either way between."""
    middle = float(smiles[steps.abs().argmin()].nan_to_num(float(own.median())))
    low, high = float(own.min()), float(own.max())
    wanted = [low + (middle - low) * part / 3 for part in range(3)]
    wanted += [middle + (high - middle) * part / 3 for part in range(4)]
    return [int((smiles - one).abs().nan_to_num(torch.inf).argmin()) for one in wanted]


def hidden_error(pictures: Tensor, photos: Tensor, masks: Tensor) -> float:
    """Mean PSNR in dB of pictures [N, 3, H, H] in [-1, 1] where masks [N, 1, H, H] are 1."""
    error = ((pictures.clamp(-1, 1) - photos).square() * masks).sum((1, 2, 3)) / 3 / masks.sum((1, 2, 3)) / 4
    return float((-10 * error.clamp(min=1e-10).log10()).mean())
