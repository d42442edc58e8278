"""Semantic directions in W: loading, finding, and applying them freely or within a person's alpha space.

A direction is one vector for all layers, or one for each. Sources: linear boundaries between labeled latents
(InterFaceGAN, CVPR 2020), principal components (GANSpace, NeurIPS 2020), and differences of means. Edits
within a person follow MyStyle, section 3.4.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.errors import quote_untrusted
from ..formats.direction_file import FORMAT, check_name, read_directions
from ..formats.safetensors_file import write_safetensors
from ..person.latents import Latents, check_not_empty
from .alpha_space import AlphaSpace

EDGES = ("stop", "continue", "project")
"""Values of `edge` in `Direction.apply`."""
FEWEST = 8
"""Smallest number of samples on either side of a boundary."""


@dataclass(frozen=True)
class Direction:
    """Semantic direction in the latent space W of a generator."""

    name: str
    """Attribute that it changes, such as "smile"."""
    vector: Tensor
    """Change of the latent at strength 1, [w_dim] or [num_ws, w_dim]."""
    base_hash: str | None = None
    """Hash of the generator it belongs to (`Generator.base_hash`); None if unknown."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Source and quality, plain values for JSON."""

    def __post_init__(self) -> None:
        if self.vector.ndim not in (1, 2) or not self.vector.dtype.is_floating_point:
            raise ValueError(
                f"A direction is one vector [w_dim] or one a layer [num_ws, w_dim], but {self.name!r} has "
                f"shape {list(self.vector.shape)} and type {self.vector.dtype}."
            )
        if self.vector.device.type != "meta":
            length = self.vector.norm()
            if not bool(torch.isfinite(length)) or float(length) == 0:
                raise ValueError(f"The direction {self.name!r} leads nowhere: its length is {float(length)}.")

    # --- Files --------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        attribute: str | None = None,
        num_ws: int | None = None,
        w_dim: int | None = None,
    ) -> Direction:
        """Load a direction as data; no code in the file is executed.

        Args:
            path: .npy, .npz, .pt or .safetensors with one direction or several by name, each of shape
                [w_dim] or [num_ws, w_dim], with leading ones or not, or flat [num_ws * w_dim].
            attribute: name of the direction to load from a file with several.
            num_ws, w_dim: shape of the target generator's latents; None: not checked, with 512 as the w_dim
                of flat ones.

        Raises:
            FileNotFoundError: no such file.
            CheckpointError: the file holds no direction, or several and none was chosen; the direction is for
                another generator, for a 2D StyleGAN, or for head pose, which in EG3D is set by the camera.
        """
        found = read_directions(Path(path), attribute, num_ws, w_dim)
        return cls(found.name, found.vector, found.base_hash, found.meta)

    def doubt(self) -> str:
        """Return a warning if it is unknown whether the direction belongs to EG3D; empty if it is known.

        One row of 512 numbers without provenance may also come from a 2D StyleGAN, whose W has the same shape
        and another meaning. Directions with a row for each layer have the number of the generator's layers.
        """
        if self.base_hash is not None or self.vector.ndim > 1:
            return ""
        where = self.meta.get("file", "It")
        return (
            f"{where} does not say which generator it was made for, and one row of {len(self.vector)} "
            "numbers fits 2D StyleGANs as well, whose directions mean nothing here. If "
            f"{quote_untrusted(self.name)} does not do what its name says, find one for this generator (Find "
            "Direction)."
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file atomically; `load` restores it bit-exactly."""
        check_name(self.name)
        metadata = {"format": FORMAT, "name": self.name, "meta": json.dumps(self.meta)}
        if self.base_hash is not None:
            metadata["base_hash"] = self.base_hash
        write_safetensors({"direction": self.vector.detach().cpu()}, path, metadata)

    # --- Finding ------------------------------------------------------------------------------------------

    @classmethod
    def from_pairs(
        cls, before: Latents | Tensor, after: Latents | Tensor, name: str = "difference"
    ) -> Direction:
        """Make a direction from the mean difference of two sets of latents, such as without and with a smile.

        Args:
            before, after: [n, num_ws, w_dim] each; the counts may differ.
            name: of the direction.

        Raises:
            ValueError: latents of different generators or shapes.
        """
        (start, base), (end, other) = _ws_and_hash(before), _ws_and_hash(after)
        if start.shape[1:] != end.shape[1:]:
            raise ValueError(f"Latents of shapes {list(start.shape)} and {list(end.shape)} do not compare.")
        if base is not None and other is not None and base != other:
            raise ValueError("The two sets of latents belong to different generators.")
        meta = {"source": "difference of means", "before": len(start), "after": len(end)}
        return cls(name, _merge_layers(end.mean(0) - start.mean(0)), base or other, meta)

    @classmethod
    def from_labels(
        cls,
        ws: Latents | Tensor,
        labels: Tensor | Sequence[float],
        name: str = "boundary",
        fraction: float = 0.02,
        seed: int = 0,
    ) -> Direction:
        """Find the normal of the linear boundary between high and low scores (InterFaceGAN).

        Fits a linear support vector machine (scikit-learn) to the samples with the highest and lowest scores,
        or to all samples if there are only two distinct scores. Strength 1 is one standard deviation of the
        samples. `meta["correlation"]` is the correlation, in [-1, 1], of positions along the direction with
        the scores of samples that were not used; None for fewer than 8 of them.

        Args:
            ws: [n, num_ws, w_dim].
            labels: scores or booleans [n]; NaN: unknown, ignored.
            name: of the direction.
            fraction: share of the known scores on either side, in (0, 0.5]; at least 8 samples are used.
            seed: of the solver.

        Raises:
            ValueError: too few known scores, all the same, or another number of them.
        """
        from sklearn.svm import LinearSVC  # not at the top: scikit-learn takes more than a second to import

        taken, base_hash = _ws_and_hash(ws)
        scores = torch.as_tensor(labels).detach().to("cpu", torch.float64).flatten()
        if len(scores) != len(taken):
            raise ValueError(f"There are {len(taken)} latents but {len(scores)} labels.")
        if not 0 < fraction <= 0.5:
            raise ValueError(f"fraction must lie in (0, 0.5], not {fraction}.")
        known = torch.isfinite(scores).nonzero()[:, 0]
        values = scores[known].unique()
        if len(values) < 2:
            raise ValueError(
                f"The labels of {name!r} are all the same, or unknown: they do not distinguish any faces."
            )
        if len(values) == 2:
            low, high = (known[scores[known] == value] for value in values)
        else:
            count = max(FEWEST, round(fraction * len(known)))
            ranked = known[scores[known].argsort(stable=True)]
            low, high = ranked[:count], ranked[-count:]
        if min(len(low), len(high)) < FEWEST or len(known) < 2 * FEWEST:
            raise ValueError(
                f"{len(known)} labeled latents are too few to find {name!r}: {FEWEST} with a low and "
                f"{FEWEST} with a high score are needed. Sample more."
            )
        rows = taken.detach().cpu().double()
        rows = rows[:, :1] if bool((rows == rows[:, :1]).all()) else rows
        flat = rows.flatten(1)
        scale = (flat - flat.mean(0)).norm(dim=1).mean()
        sides = torch.cat((low, high))
        sign = torch.cat((torch.zeros(len(low)), torch.ones(len(high)))).numpy()
        machine = LinearSVC(random_state=seed, max_iter=20_000)
        machine.fit(((flat[sides] - flat.mean(0)) / scale).numpy(), sign)
        normal = torch.nn.functional.normalize(torch.from_numpy(machine.coef_[0]), dim=0)
        along = flat @ normal
        unseen = known[~torch.isin(known, sides)]
        correlation = None
        if len(unseen) >= FEWEST:
            both = torch.stack((along[unseen], scores[unseen]))
            correlation = float(torch.corrcoef(both)[0, 1])
        vector = (normal * along.std()).view(rows.shape[1:]).to(taken)
        meta = {"source": "linear SVM", "faces": len(sides), "correlation": correlation}
        return cls(name, _merge_layers(vector), base_hash, meta)

    # --- Applying -----------------------------------------------------------------------------------------

    def apply(
        self,
        ws: Tensor,
        strength: float | Tensor,
        layers: Sequence[int] | None = None,
        within: AlphaSpace | None = None,
        edge: str = "stop",
    ) -> Tensor:
        """Move latents along the direction.

        Args:
            ws: [n, num_ws, w_dim].
            strength: multiple of the vector; a number, or a tensor [n]; one latent with strengths [s] gives s
                latents. 0 changes nothing.
            layers: layers of ws to change; None: all.
            within: alpha space that constrains the edit to a person: the direction is replaced by its
                projection on the span of the anchors (MyStyle, section 3.4). The part of ws outside the span
                is kept.
            edge: behavior where a weight would fall below -beta: "stop" there, "continue", or "project" to
                the nearest admissible weights.

        Returns:
            [n or s, num_ws, w_dim].

        Raises:
            ValueError: a direction of another generator, unknown layers or edge, or strengths and latents of
                different counts.
        """
        vector = self._broadcast(ws)
        if edge not in EDGES:
            raise ValueError(f"edge must be one of {', '.join(EDGES)}, not {edge!r}.")
        if isinstance(strength, Tensor):
            amount = strength.to(ws).reshape(-1)
        else:
            amount = torch.full((1,), float(strength), device=ws.device, dtype=ws.dtype)
        count = max(len(ws), len(amount))
        if not {len(ws), len(amount)} <= {1, count}:
            raise ValueError(f"{len(amount)} strengths and {len(ws)} latents do not fit.")
        ws, amount = ws.expand(count, -1, -1), amount.expand(count)
        if within is None:
            change = amount[:, None, None] * vector
        else:
            change = self._within(ws, amount, vector, within, edge)
        if layers is not None:
            rows = ws.shape[1]
            wrong = [layer for layer in layers if not 0 <= layer < rows]
            if wrong:
                raise ValueError(f"There is no layer {wrong[0]}: these latents have layers 0 to {rows - 1}.")
            line = torch.arange(rows, device=ws.device)
            kept = torch.stack([line == layer for layer in layers]).any(0) if layers else line < 0
            change = change * kept[:, None]
        return ws + change

    def reach(self, ws: Tensor, within: AlphaSpace) -> tuple[float, float]:
        """Return the range of strengths in which an edit stays in the alpha space of a person.

        Outside this range a weight would fall below -beta, and `apply` follows its `edge`.

        Args:
            ws: [1, num_ws, w_dim].
            within: alpha space of the person.

        Returns:
            lowest strength, at most 0, and highest, at least 0; infinite if the direction changes no weight.
        """
        room = (within.weights_of(ws)[0] + within.beta).clamp(min=0)
        gamma = within.coordinates(self._broadcast(ws))

        def limit(change: Tensor) -> float:
            return float(torch.where(change < 0, room / (-change).clamp(min=1e-12), torch.inf).amin())

        return -limit(-gamma), limit(gamma)

    def _broadcast(self, ws: Tensor) -> Tensor:
        """Return the vector as [num_ws, w_dim], like latents ws; ValueError if it does not fit them."""
        if ws.ndim != 3 or self.vector.shape[-1] != ws.shape[2]:
            raise ValueError(
                f"The direction {self.name!r} has {self.vector.shape[-1]} numbers a layer, but the latents "
                f"have shape {list(ws.shape)}. It was made for another generator."
            )
        if self.vector.ndim == 2 and len(self.vector) not in (1, ws.shape[1]):
            raise ValueError(
                f"The direction {self.name!r} has {len(self.vector)} layers, but the latents have "
                f"{ws.shape[1]}. It was made for another generator."
            )
        return self.vector.to(ws).expand(ws.shape[1:])

    def _within(self, ws: Tensor, amount: Tensor, vector: Tensor, space: AlphaSpace, edge: str) -> Tensor:
        """Return the change [n, num_ws, w_dim] of ws by strengths `amount` [n] within an alpha space."""
        start = space.weights_of(ws)
        gamma = space.coordinates(vector)
        moves = amount[:, None] * gamma
        if edge == "stop":
            # a weight already below -beta must not fall further
            room = (start + space.beta).clamp(min=0)
            share = torch.where(moves < 0, room / (-moves).clamp(min=1e-12), torch.inf)
            moves = moves * share.amin(1, keepdim=True).clamp(max=1)
        elif edge == "project":
            moves = space.project_weights(start + moves) - start
        return torch.einsum("na,alw->nlw", moves, space.anchors.ws.to(ws))


def principal_directions(ws: Latents | Tensor, k: int) -> list[Direction]:
    """Find the first k principal components of latents (GANSpace), largest variance first.

    Strength 1 is one standard deviation. The sign is chosen so that the entry of largest magnitude is
    positive. `meta["share"]` is the share of the total variance.

    Args:
        ws: [n, num_ws, w_dim], n > k; for a generator, thousands from `random_latents`.
        k: number of directions.

    Raises:
        ValueError: fewer than k + 1 latents, or k above their dimension.
    """
    taken, base_hash = _ws_and_hash(ws)
    if not 1 <= k < len(taken):
        raise ValueError(f"{len(taken)} latents give 1 to {len(taken) - 1} directions, not {k}.")
    rows = taken.detach()
    if rows.device.type != "meta" and bool((rows == rows[:, :1]).all()):
        rows = rows[:, :1]
    flat = rows.flatten(1).float()
    if k > flat.shape[1]:
        raise ValueError(f"Latents of {flat.shape[1]} numbers have that many directions at most, not {k}.")
    _, sizes, axes = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    shares = sizes.square() / sizes.square().sum()
    found = []
    for number in range(k):
        axis = axes[number]
        axis = axis * axis.gather(0, axis.abs().argmax(0, keepdim=True)).sign()
        vector = (axis * sizes[number] / (len(flat) - 1) ** 0.5).view(rows.shape[1:])
        meta = {"source": "principal component", "samples": len(flat), "share": float(shares[number])}
        found.append(Direction(f"component {number + 1}", _merge_layers(vector), base_hash, meta))
    return found


def _ws_and_hash(latents: Latents | Tensor) -> tuple[Tensor, str | None]:
    """Return ws [n, num_ws, w_dim] and the generator's hash, None for a tensor."""
    given = latents if isinstance(latents, Latents) else Latents(latents)
    check_not_empty(given)
    return given.ws, given.base_hash


def _merge_layers(rows: Tensor) -> Tensor:
    """Reduce [num_ws, w_dim] to [w_dim] if all layers are equal, as they are for latents in W."""
    if rows.device.type != "meta" and torch.equal(rows, rows[:1].expand_as(rows)):
        return rows[0].clone()
    return rows
