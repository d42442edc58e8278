"""Training state of `personalize`: parameters, optimizers, RNG streams, checkpoints, and one step."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from ..camera import mirror
from ..common.oom import is_out_of_memory_error
from ..common.rng import RngStreams, ShuffledIndices
from ..eg3d import Generator
from ..face import FaceModels
from ..formats.safetensors_file import read_safetensors, write_safetensors
from ..person.adapter import DIFF, Adapter
from ..person.apply import replace_parameters, with_trainable_adapter
from ..person.identity import Identity
from ..person.latents import Latents
from .anchor_refit import OWN_PROBABILITY, SHARED_FRACTION, refit_anchors
from .camera_refinement import CameraRefinement
from .divergence import DivergenceCheck
from .identity_loss import NovelViewIdentity
from .lpips import distance, weights_hash
from .muon import Muon
from .photo_objective import PhotoObjective
from .tuning_config import TuningConfig

STATE_FILE = "training.safetensors"
"""Name of the checkpoint in `TuningConfig.checkpoint_dir`."""
_GOOD_EVERY = 5  # steps between two copies of a good state


class DivergedError(FloatingPointError):
    """Error of a training whose loss became NaN, infinite or far larger than its best.

    `identity` is the last good one, after the steps in its provenance under "steps_done". It is untrained
    (0 steps) if the loss exploded at once, and None if not even the first loss was finite.
    """

    def __init__(self, message: str, identity: Identity | None) -> None:
        """Store the message and the last good state."""
        super().__init__(message)
        self.identity = identity


class Training:
    """State of one training: photos, anchors, adapter, optimizers, RNG streams. `advance` takes one step."""

    def __init__(
        self,
        generator: Generator,
        images: Tensor,
        anchors: Latents,
        config: TuningConfig,
        masks: Tensor | None,
        heads: Tensor | None,
        start: Identity | None,
        face_models: FaceModels | None = None,
    ) -> None:
        """Prepare the first step; arguments and errors as in `personalize`."""
        assert anchors.cameras is not None
        self.generator, self.config, self.start = generator, config, start
        self.device = generator.w_avg.device
        self.given = anchors
        generator.check_ws(anchors.ws)
        ws = anchors.ws.detach().clone().to(self.device)
        shared = bool((ws == ws[:, :1]).all())  # anchors in W stay in W when they are refined
        rows = ws[:, :1] if shared else ws
        self.ws = [one.clone().requires_grad_(config.refine) for one in rows]
        self.shared: Tensor | None = None
        """Latent [rows, w_dim] of all photos in a training that shares one; None: each has its own."""
        if config.anchors == "shared" and bool((rows != rows[:1]).any()):
            self.shared = rows.mean(0)
        self._refit_step = max(1, round(SHARED_FRACTION * config.steps))
        self._steps_on_own = True
        self.cameras = CameraRefinement(anchors.cameras.to(self.device), config.refine)
        if config.background_weight < 1 and heads is None:
            heads = rendered_heads(generator, ws.mean(0, keepdim=True), self.cameras.labels)
        self.distance = distance(config.perceptual_backbone, config.perceptual_dir, self.device)
        self.objective = PhotoObjective(
            generator, images, masks, config.perceptual, heads, config.background_weight, self.distance
        )
        self.objective.random_samples = config.random_samples
        self.mirrored: PhotoObjective | None = None
        if config.mirrored:
            self.mirrored = PhotoObjective(
                generator,
                images.flip(3),
                None if masks is None else masks.flip(3),
                config.perceptual,
                None if heads is None else heads.flip(3),
                config.background_weight,
                self.distance,
            )
            self.mirrored.random_samples = config.random_samples
        self.identity_loss: NovelViewIdentity | None = None
        if config.identity_weight > 0:
            if face_models is None:
                raise ValueError("identity_weight needs an ArcFace network: give face_models.")
            self.identity_loss = NovelViewIdentity(generator, images, face_models)
        self.adapter = _adapter(generator, config, start)
        self.parameters = dict(generator.named_parameters())
        groups = parameter_groups(self.adapter, config)
        if config.refine:
            groups.append({"params": self.ws, "lr": config.anchor_lr})
        self.optimizers = optimizers(groups, config)
        self.groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self.rates = [group["lr"] for group in self.groups]
        self.draw = RngStreams(config.seed, self.device)
        self.order = ShuffledIndices(len(images), config.seed)
        self.done = 0
        self.history: list[float] = []
        self.low_memory = False
        self.fingerprint = self._fingerprint(images, masks, heads) if config.checkpoint_dir else ""
        self.check = DivergenceCheck(math.ceil(len(images) / config.batch_size))
        self._photo_losses: list[Tensor] = []
        self._good: dict[str, Tensor] = {}
        self._good_step = 0

    def _fingerprint(self, *tensors: Tensor | None) -> str:
        """Return a SHA-256 over settings and inputs; `restore` refuses a state with another one."""
        started = [] if self.start is None else list(self.start.adapter.tensors.values())
        target = None if self.identity_loss is None else self.identity_loss.target
        return fingerprint(
            self.config,
            f"{self.generator.base_hash()} {weights_hash(self.distance)}",
            (*tensors, target, self.given.ws, self.given.cameras, *started),
        )

    def advance(self, on_anchor_step: Callable[[], None] | None = None) -> float:
        """Take one optimizer step and return its loss.

        Args:
            on_anchor_step: called after each step of `refit_anchors`, which this step may include; if it
                raises, nothing has changed.

        Raises:
            DivergedError: the loss is not finite, or has grown far above its best (`divergence`).
        """
        config = self.config
        wave = 0.5 + 0.5 * math.cos(math.pi * self.done / config.steps)
        decay = 0.05 + 0.95 * wave if config.schedule == "cosine" else 1.0
        for group, rate in zip(self.groups, self.rates, strict=True):
            group["lr"] = rate * decay
        if config.refine and self.done * 4 % config.steps < 4 and self.done:
            self._refine_cameras()
        if self.shared is not None:
            if self.done == self._refit_step:
                self._refit_anchors(on_anchor_step)
            own = self.draw.places.random() < OWN_PROBABILITY
            self._steps_on_own = own and self.done >= self._refit_step
        index = self.order.take(config.batch_size)
        flipped = self.mirrored is not None and self.draw.places.random() < 0.25
        self._clear_gradients()
        state = self._rng_state()
        try:
            loss = self._backward(self._parts(index), flipped)
        except RuntimeError as error:
            if self.low_memory or not is_out_of_memory_error(error):
                raise
            # Retry once in low-memory mode: one photo and fewer rays at a time, with the same random numbers.
            self.low_memory = self.objective.low_memory = True
            if self.mirrored is not None:
                self.mirrored.low_memory = True
            self._clear_gradients()
            self._set_rng_state(state)
            loss = self._backward(self._parts(index), flipped)
        self.history.append(loss)
        self._check(loss)
        for optimizer in self.optimizers:
            optimizer.step()
        self.done += 1
        return loss

    def _clear_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _parts(self, index: list[int]) -> list[list[int]]:
        """Split a batch into the parts that are worked on at the same time."""
        return [[one] for one in index] if self.low_memory else [index]

    def _backward(self, parts: list[list[int]], flipped: bool) -> float:
        """Accumulate the gradients of a batch and return its mean loss."""
        self._photo_losses = []
        count = sum(len(part) for part in parts)
        total = 0.0
        for part in parts:
            with with_trainable_adapter(self.generator, self.adapter, self.parameters):
                loss = self._loss(part, flipped).sum() / count
            loss.backward()
            total += float(loss.detach())
        return total

    def _loss(self, index: list[int], flipped: bool) -> Tensor:
        """Return the losses [B] of photos `index`, or of their mirror images."""
        objective = self.objective
        ws, cameras = self._training_ws(index), self.cameras.cameras(index)
        if flipped and self.mirrored is not None:
            objective, cameras = self.mirrored, mirror(cameras)
        planes = self.generator.planes(ws)
        size = self.config.patch or objective.resolution
        loss = objective.patch(ws, planes, cameras, index, size, self.draw)
        self._photo_losses.append(loss.detach())  # without weights, for the divergence check
        if flipped:
            loss = self.config.mirrored * loss
        if self.identity_loss is not None and self.done % self.config.identity_every == 0:
            identity_loss = self.identity_loss.loss(ws, planes, cameras, self.draw, objective.chunk)
            loss = loss + self.config.identity_weight * identity_loss
        return loss

    def _refine_cameras(self) -> None:
        """Refine all cameras to the current adapter and anchors."""
        raw, valid = self.objective.raw, self.objective.valid_raw
        with (
            torch.no_grad(),
            replace_parameters(self.generator, self.adapter.merged_weights(self.parameters)),
        ):
            for row in range(len(raw)):  # the planes of one photo at a time
                self.cameras.gauss_newton_step(self.generator, self._latest_ws([row]), raw, valid, [row])
        self.cameras.remove_mean()

    def _refit_anchors(self, on_step: Callable[[], None] | None) -> None:
        """Optimize all anchors on the current adapter, from the shared latent."""
        assert self.shared is not None
        merged = {name: one.detach() for name, one in self.adapter.merged_weights(self.parameters).items()}
        with replace_parameters(self.generator, merged):
            ws = refit_anchors(
                self.generator,
                self.objective,
                self.cameras.cameras(),
                self.shared[None],
                self.config.anchor_steps,
                self.config.seed,
                on_step,
            )
        with torch.no_grad():
            for anchor, found in zip(self.ws, ws, strict=True):
                anchor.copy_(found)

    def _ws(self, index: list[int]) -> Tensor:
        """Return the anchors [B, num_ws, w_dim] of the photos `index`."""
        return torch.stack([self.ws[row] for row in index]).expand(-1, self.generator.num_ws, -1)

    def _training_ws(self, index: list[int]) -> Tensor:
        """Return the latents [B, num_ws, w_dim] from which the photos `index` are rendered in this step."""
        if self.shared is None or self._steps_on_own:
            return self._ws(index)
        return self.shared.expand(len(index), self.generator.num_ws, -1)

    def _latest_ws(self, index: list[int]) -> Tensor:
        """Return the best latents [B, num_ws, w_dim] of the photos `index` so far."""
        if self.shared is None or self.done > self._refit_step:
            return self._ws(index)
        return self.shared.expand(len(index), self.generator.num_ws, -1)

    def _check(self, loss: float) -> None:
        """Keep a copy of a good state; raise DivergedError with the latest one if the loss runs away."""
        photos = torch.cat(self._photo_losses)
        self.check.add(photos if math.isfinite(loss) else photos + loss)
        if self.check.diverged:
            message = self.check.message("training", self.done, "Lower the learning rates.")
            raise DivergedError(message, self._good_identity())
        if self.check.healthy and (not self._good or self.done >= self._good_step + _GOOD_EVERY):
            self._good = {name: tensor.detach().clone() for name, tensor in self._optimized()}
            self._good["angles"], self._good_step = self.cameras.angles.clone(), self.done

    def _good_identity(self) -> Identity | None:
        """Return to the last good state, and return its identity; None if there is none."""
        if not self._good:
            return None
        with torch.no_grad():
            for name, tensor in self._optimized():
                tensor.copy_(self._good[name])
        self.cameras.angles.copy_(self._good["angles"])
        del self.history[len(self.history) - (self.done - self._good_step) :]
        self.done = self._good_step
        return self.identity()

    @torch.no_grad()
    def preview(self) -> Tensor:
        """Render the first photo's latent with the current adapter: [1, 3, R, R]."""
        with replace_parameters(self.generator, self.adapter.merged_weights(self.parameters)):
            return self.generator.render(self._latest_ws([0]), self.cameras.cameras([0])).image

    def identity(self) -> Identity:
        """Return the identity trained so far, with the provenance of the training."""
        tensors = {key: tensor.detach() for key, tensor in self.adapter.tensors.items()}
        base_hash = self.generator.base_hash()
        anchors = dataclasses.replace(self.given, base_hash=base_hash)
        if self.config.refine or self.shared is not None:
            with torch.no_grad():
                ws, cameras = self._ws(list(range(len(self.ws)))).clone(), self.cameras.cameras()
            anchors = dataclasses.replace(anchors, ws=ws, cameras=cameras)
        provenance: dict[str, Any] = {
            "settings": self.config.fingerprint_settings,  # no folders: the file travels
            "photos": len(self.objective),
            "steps_done": self.done,
            "final_loss": self.history[-1] if self.history else None,
        }
        if weights_hash(self.distance) is not None:
            provenance["perceptual_weights"] = weights_hash(self.distance)
        if self.low_memory:
            provenance["frugal"] = "memory ran out: one photo and fewer rays at a time"
        if self.start is not None:
            provenance["continued_from"] = self.start.content_hash()
        adapter = dataclasses.replace(self.adapter, tensors=tensors)
        return Identity(adapter, anchors, base_hash, provenance, list(self.history))

    def _optimized(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors that change, with their names in a checkpoint."""
        for key, tensor in self.adapter.tensors.items():
            yield f"adapter/{key}", tensor
        for row, anchor in enumerate(self.ws if self.config.refine or self.shared is not None else ()):
            yield f"anchors/{row}", anchor

    def _optimizer_state(self) -> dict[Tensor, dict[str, Any]]:
        """Return the optimizers' states of all tensors that have one."""
        return {tensor: state for optimizer in self.optimizers for tensor, state in optimizer.state.items()}

    def _owner(self, tensor: Tensor) -> torch.optim.Optimizer:
        """Return the optimizer of a tensor."""
        for optimizer in self.optimizers:
            if any(tensor is other for group in optimizer.param_groups for other in group["params"]):
                return optimizer
        raise KeyError("no optimizer has this tensor")

    def _rng_state(self) -> dict[str, Any]:
        """Return the states of all RNG streams; "samples" is a tensor, the rest plain values for JSON."""
        return {
            "places": self.draw.places.getstate(),
            "order": self.order.random.getstate(),
            "waiting": list(self.order.waiting),
            "samples": self.draw.samples.get_state(),
        }

    def _set_rng_state(self, state: dict[str, Any]) -> None:
        """Restore a state of `_rng_state`, also one that went through JSON."""

        def with_tuple(value: Any) -> Any:  # JSON has no tuples
            version, numbers, gauss = value
            return version, tuple(numbers), gauss

        self.draw.places.setstate(with_tuple(state["places"]))
        self.order.random.setstate(with_tuple(state["order"]))
        self.order.waiting = list(state["waiting"])
        self.draw.samples.set_state(state["samples"])

    def save(self, folder: Path) -> None:
        """Write the whole state to `STATE_FILE` in a folder, atomically."""
        tensors: dict[str, Tensor] = {}
        states = self._optimizer_state()
        for name, tensor in self._optimized():
            tensors[name] = tensor.detach().cpu()
            for key, value in states.get(tensor, {}).items():
                tensors[f"optimizer/{name}/{key}"] = value.detach().cpu()
        rng_state = self._rng_state()
        tensors["samples"], tensors["angles"] = rng_state.pop("samples"), self.cameras.angles.cpu()
        metadata = {
            "fingerprint": self.fingerprint,
            "done": json.dumps(self.done),
            "frugal": json.dumps(self.low_memory),
            "history": json.dumps(self.history),
            "chance": json.dumps(rng_state),
        }
        write_safetensors(tensors, folder / STATE_FILE, metadata)

    def restore(self, folder: Path) -> bool:
        """Resume from a state of `save`, if the folder has one.

        Returns:
            True if a state was restored.

        Raises:
            ValueError: the state is of another training, or damaged. Nothing is changed then.
        """
        file = folder / STATE_FILE
        if not file.exists():
            return False
        advice = "Choose another checkpoint folder, or delete that file to start over."
        try:
            tensors, metadata = read_safetensors(file)
            fingerprint, rng_state = metadata["fingerprint"], json.loads(metadata["chance"])
            done, history = int(json.loads(metadata["done"])), json.loads(metadata["history"])
            known = {name: tensors.pop(name) for name, _ in self._optimized()}
            rng_state["samples"], angles = tensors.pop("samples"), tensors.pop("angles")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ValueError(f"{file} cannot be read as the state of a training. {advice}") from error
        if fingerprint != self.fingerprint:
            raise ValueError(f"{file} belongs to a training of other photos or settings. {advice}")
        with torch.no_grad():
            for name, tensor in self._optimized():
                tensor.copy_(known[name])
                prefix = f"optimizer/{name}/"
                moments = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                if moments:
                    self._owner(tensor).state[tensor] = {
                        # Adam's step count stays on the CPU
                        key: value if key == "step" else value.to(self.device)
                        for key, value in moments.items()
                    }
        self._set_rng_state(rng_state)
        self.cameras.angles.copy_(angles)
        self.done, self.history = done, [float(loss) for loss in history]
        self.low_memory = self.objective.low_memory = bool(json.loads(metadata["frugal"]))
        return True


def fingerprint(config: TuningConfig, networks: str, tensors: Iterable[Tensor | None]) -> str:
    """Return a SHA-256 over what decides the result of a training.

    Args:
        config: its `fingerprint_settings` are hashed.
        networks: hashes or names of the generator and the other networks.
        tensors: photos, masks, anchors and the like; None is skipped.
    """
    digest = hashlib.sha256(json.dumps(config.fingerprint_settings, sort_keys=True).encode())
    digest.update(networks.encode())
    for tensor in tensors:
        if tensor is not None:
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _adapter(generator: Generator, config: TuningConfig, start: Identity | None) -> Adapter:
    """Return a new adapter, or a copy of the one of `start`.

    Raises:
        ValueError: `start` is of another generator, method, rank or layout.
    """
    if start is None:
        if config.method == "full":
            return Adapter.full(generator)
        return Adapter.create(generator, config.rank, config.layout, config.trainable, seed=config.seed)
    start.check_base(generator.base_hash())
    adapter = start.adapter
    method = "full" if adapter.layout == "full" else "lora"
    wanted = (config.method, config.rank, config.layout)
    if wanted[0] != method or (method == "lora" and wanted[1:] != (adapter.rank, adapter.layout)):
        raise ValueError(
            f"The identity to continue is {method} of rank {adapter.rank}, layout {adapter.layout}; the "
            f"settings ask for {config.method}, rank {config.rank}, layout {config.layout}. Make them equal."
        )
    device = generator.w_avg.device
    return dataclasses.replace(
        adapter, tensors={key: value.detach().clone().to(device) for key, value in adapter.tensors.items()}
    )


def parameter_groups(adapter: Adapter, config: TuningConfig) -> list[dict[str, Any]]:
    """Make the adapter's tensors trainable and group them by learning rate.

    Returns:
        parameter groups with "params", "lr" and "matrix": True for matrices and kernels, which Muon can take.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for key, tensor in adapter.tensors.items():
        tensor.requires_grad_(True)
        # The decoder is small and ends in densities and colors: Adam takes its matrices too.
        matrix = not key.endswith(DIFF) or (
            adapter.layout == "full" and key.endswith(".weight" + DIFF) and not key.startswith("decoder.")
        )
        if key.endswith(DIFF):
            rate = config.full_lr if matrix else config.diff_lr
        else:
            rate = config.affine_lr if ".affine." in key else config.lr
        groups.setdefault((rate, matrix), []).append(tensor)
    return [{"params": tensors, "lr": rate, "matrix": matrix} for (rate, matrix), tensors in groups.items()]


def optimizers(groups: list[dict[str, Any]], config: TuningConfig) -> list[torch.optim.Optimizer]:
    """Build the optimizers: Muon for matrices and Adam for the rest, or Adam alone.

    Args:
        groups: from `parameter_groups`; their "matrix" entry is removed.
        config: `optimizer` and `beta2` are used.
    """
    kinds: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for group in groups:
        kinds[group.pop("matrix", False) and config.optimizer == "muon"].append(group)
    made: list[torch.optim.Optimizer] = []
    if kinds[1]:
        made.append(Muon(kinds[1]))
    if kinds[0]:
        momentum = 0.9 if config.optimizer == "muon" else 0.0
        made.append(torch.optim.Adam(kinds[0], betas=(momentum, config.beta2)))
    return made


@torch.no_grad()
def rendered_heads(generator: Generator, ws: Tensor, cameras: Tensor) -> Tensor:
    """Render head masks: the generator's coverage above one half, dilated by three raw pixels.

    Give the mean of the anchors: single anchors also reproduce background of their photos. The masks of a
    generator with an opaque background are 1 everywhere.

    Args:
        generator: rendered at its raw resolution r.
        ws: [1, num_ws, w_dim].
        cameras: [N, 25].

    Returns:
        [N, 1, r, r], 1 = head.
    """
    resolution, planes = generator.config.neural_resolution, generator.planes(ws)
    covered = []
    for camera in cameras:
        marched = generator.march(planes, camera[None], resolution)
        covered.append(marched.weight.transpose(1, 2).unflatten(2, (resolution, resolution)))
    return F.max_pool2d((torch.cat(covered) > 0.5).float(), 7, 1, 3)
