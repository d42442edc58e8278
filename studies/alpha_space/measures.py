"""Measures of `studies.alpha_space` that need no generator."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from my3dgen_core.fitting.losses import laplacian_distance


def mean(values: list[float]) -> float | None:
    """Return the mean, or None of an empty list."""
    return sum(values) / len(values) if values else None


def pairwise(views: Tensor) -> float | None:
    """Return the mean perceptual distance of two of the pictures [N, 3, H, H]; None for fewer than two."""
    with torch.no_grad():
        parts = [laplacian_distance(views[i : i + 1], views[i + 1 :]) for i in range(len(views) - 1)]
    return float(torch.cat(parts).mean()) if parts else None


def hidden_part(photos: Tensor, share: float) -> Tensor:
    """Return masks [N, 1, H, H] of a square in the middle that covers this share of the picture."""
    size = photos.shape[-1]
    side = round(size * share**0.5)
    start = (size - side) // 2
    masks = torch.zeros(len(photos), 1, size, size)
    masks[:, :, start : start + side, start : start + side] = 1
    return masks


def own_drop(smiles: Tensor, cosines: Tensor) -> dict[str, Any]:
    """Compute the identity drop between the photos of a person, sorted by their smiles.

    Args:
        smiles: measured smiles [N].
        cosines: identity similarities [N].

    Returns:
        "fifths": mean similarity of the fifths of the photos that smile least, in between and most; "drop":
        the middle one minus the lower of the other two. None for fewer than three photos.
    """
    order, fifth = smiles.argsort(), max(1, len(smiles) // 5)
    if len(order) < 3:
        return {"fifths": None, "drop": None}
    middle = (len(order) - fifth) // 2
    parts = (order[:fifth], order[middle : middle + fifth], order[-fifth:])
    least, between, most = (float(cosines[part].mean()) for part in parts)
    return {"fifths": [least, between, most], "drop": between - min(least, most)}


def smile_claim(steps: Tensor, smiles: Tensor, cosines: list[float | None], own: Tensor) -> dict[str, Any]:
    """Judge a sweep over the range of a person's own smiles.

    Args:
        steps: strengths [N] of the edit.
        smiles: measured smiles [N].
        cosines: identity similarities [N], None where no face was found.
        own: smiles [M] of the person's photos.

    Returns:
        "drop": similarity of the unedited head minus the lowest within the range, whose ends are
        interpolated; "covered": share of the range that the sweep reaches; "rising": share of the steps
        within the range, and up to the first one outside on either side, at which the smile grows; "sweep":
        the sweep itself.
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
    chosen, cosines_in_range = [middle], [sweep[middle][2]]
    for way, end in ((1, high), (-1, low)):
        place = middle
        while way * values[place] < way * end and 0 <= place + way < len(sweep):
            before, place = place, place + way
            chosen.append(place)
            step = values[place] - values[before]
            share = (end - values[before]) / step if way * values[place] > way * end else 1.0
            cosines_in_range.append(sweep[before][2] + share * (sweep[place][2] - sweep[before][2]))
    found["drop"] = cosines_in_range[0] - min(cosines_in_range)
    found["rising"] = mean([float(values[b] > values[a]) for a, b in itertools.pairwise(sorted(chosen))])
    return found


def nearest_smiles(steps: Tensor, smiles: Tensor, own: Tensor) -> list[int]:
    """Choose seven steps of a sweep to show.

    Returns:
        Indices of the steps nearest to the least smile of `own`, two between, the unedited smile, two
        between, and the largest smile of `own`.
    """
    middle = float(smiles[steps.abs().argmin()].nan_to_num(float(own.median())))
    low, high = float(own.min()), float(own.max())
    wanted = [low + (middle - low) * part / 3 for part in range(3)]
    wanted += [middle + (high - middle) * part / 3 for part in range(4)]
    return [int((smiles - one).abs().nan_to_num(torch.inf).argmin()) for one in wanted]


def hidden_error(pictures: Tensor, photos: Tensor, masks: Tensor) -> float:
    """Return the mean PSNR in dB of pictures [N, 3, H, H] in [-1, 1] where masks [N, 1, H, H] are 1."""
    error = ((pictures.clamp(-1, 1) - photos).square() * masks).sum((1, 2, 3)) / 3 / masks.sum((1, 2, 3)) / 4
    return float((-10 * error.clamp(min=1e-10).log10()).mean())
