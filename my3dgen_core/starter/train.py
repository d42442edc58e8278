"""Training of the starter generator on synthetic heads, cheap stages first; resumable, one command.

    python -m my3dgen_core.starter.train --out runs/starter

Ray shards are made by background processes while the first stage runs (`bank`). The training itself runs in
as many processes as there are cores (`team`). A stage lasts a share of `--minutes` of wall clock, so its
learning rate falls to the end on any machine; every stage ends with an export.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..eg3d.config import GeneratorConfig
from ..eg3d.generator import Generator
from .bank import Bank
from .export import export
from .factors import Z_DIM
from .heads import random_cameras, truth
from .metrics import HeldOut, measure
from .objectives import picture_loss, point_loss, ray_loss
from .optimizer import Muon
from .team import Team

CONFIG = GeneratorConfig(
    z_dim=64,
    w_dim=128,
    img_resolution=128,
    plane_resolution=128,
    channel_base=4096,
    channel_max=128,
    superresolution="2X",
    sr_num_fp16_res=0,
    neural_resolution=64,
    depth_resolution=24,
    depth_resolution_importance=24,
    ray_start=2.25,
    ray_end=3.2,
    white_back=True,
    c_gen_conditioning_zero=True,
    avg_camera_pivot=(0.0, 0.0, 0.0),
)


@dataclass(frozen=True)
class Stage:
    """One stage: share of the time, size of the planes, what is supervised, batch of a worker, learning
    rate."""

    name: str
    share: float
    planes: int
    objective: str  # "points", "rays" or "pictures"
    heads: int = 4
    rays: int = 1024
    rate: float = 1.0


STAGES = (
    Stage("points64", 0.05, 64, "points", rays=768),
    Stage("rays64", 0.08, 64, "rays", rate=0.7),
    Stage("points128", 0.02, 128, "points", rays=768, rate=0.6),
    Stage("rays128", 0.55, 128, "rays", rate=0.4),
    Stage("pictures", 0.30, 128, "pictures", heads=1, rate=0.2),
)


def optimizers(generator: Generator) -> list[torch.optim.Optimizer]:
    """Muon on the weights of convolutions and affines, Adam on the rest.

    The mapping's rates are 100 times larger, as its own multiplier is small; the super-resolution, which
    joins for the last stage and its low rate only, learns faster than what is finished by then.
    """
    kinds: dict[str, list[torch.nn.Parameter]] = {}
    for name, parameter in generator.named_parameters():
        parameter.requires_grad_(not name.endswith("noise_strength") and ".embed." not in name)
        if not parameter.requires_grad:
            continue
        if ".mapping." in name:
            kind = "mapping"
        else:
            part = "sharp" if name.startswith("superresolution") else "volume"
            matrix = name.endswith(".weight") and not name.startswith("decoder")
            kind = f"{part} {'matrices' if matrix else 'rest'}"
        kinds.setdefault(kind, []).append(parameter)
    muon = [
        {"params": kinds["volume matrices"], "lr": 1e-2},
        {"params": kinds["sharp matrices"], "lr": 2.5e-2},
    ]
    adam = [
        {"params": kinds["volume rest"], "lr": 4e-2},
        {"params": kinds["sharp rest"], "lr": 5e-2},
        {"params": kinds["mapping"], "lr": 0.5},
    ]
    made: list[torch.optim.Optimizer] = [Muon(muon), torch.optim.Adam(adam, betas=(0.9, 0.99))]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def grow(small: Generator, config: GeneratorConfig) -> Generator:
    """A generator with larger planes that starts as the small one upsampled: new blocks add nothing yet."""
    large = Generator(config)
    known = small.state_dict()
    state = large.state_dict()
    for name, value in state.items():
        if name in known and known[name].shape == value.shape:
            state[name] = known[name]
    large.load_state_dict(state)
    for resolution in config.block_resolutions:
        if resolution not in small.config.block_resolutions:
            torgb = getattr(large.backbone.synthesis, f"b{resolution}").torgb
            torch.nn.init.zeros_(torgb.weight)
            torch.nn.init.zeros_(torgb.bias)
    return large


def rate(progress: float, step: int) -> float:
    """Warm-up over 50 steps, then a cosine to 2 %."""
    return min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class Trainer:
    """State of the run: the stage, the generator, its running average, optimisers and time spent."""

    def __init__(self, out: Path, minutes: float, bank: Bank, team: Team) -> None:
        self.out, self.minutes, self.bank, self.team = out, minutes, bank, team
        self.stage, self.step, self.spent = 0, 0, 0.0
        torch.manual_seed(0)
        self._adopt(Generator(dataclasses.replace(CONFIG, plane_resolution=STAGES[0].planes)))
        self._seed()

    def _seed(self) -> None:
        """Every worker, stage and resumption draws its own numbers."""
        seed = [self.team.rank, self.stage, self.step]
        self.rng = np.random.default_rng(seed)
        self.noise = torch.Generator().manual_seed(int(np.random.default_rng([*seed, 1]).integers(1 << 62)))

    def _adopt(self, generator: Generator) -> None:
        self.generator = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(generator).requires_grad_(False)
        self.optimizers = optimizers(generator)

    def save(self) -> None:
        """The whole state, written beside and renamed, so that a kill leaves a good file."""
        state = {
            "stage": self.stage,
            "step": self.step,
            "spent": self.spent,
            "planes": self.generator.config.plane_resolution,
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        partial = self.out / "checkpoint.tmp"
        torch.save(state, partial)
        partial.replace(self.out / "checkpoint.pt")

    def resume(self) -> None:
        state = torch.load(self.out / "checkpoint.pt", weights_only=True)
        self.stage, self.step, self.spent = state["stage"], state["step"], state["spent"]
        self._adopt(Generator(dataclasses.replace(CONFIG, plane_resolution=state["planes"])))
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._seed()

    def run(self, held_out: HeldOut | None, shipped: Path) -> None:
        """All stages. The leader alone has `held_out`, measures and writes."""
        while self.stage < len(STAGES):
            stage = STAGES[self.stage]
            if self.step == 0:
                self._begin(stage)
            self._train(stage, held_out)
            if held_out is not None:
                finished = export(self.average, self.out / f"{self.stage}_{stage.name}.safetensors")
                self.log(f"{stage.name} done: {measure(finished, held_out)}")
                if self.stage == len(STAGES) - 1:
                    export(finished, shipped, fold=False)
            self.stage, self.step, self.spent = self.stage + 1, 0, 0.0
            if held_out is not None:
                self.save()
            self.team.wait()

    def _begin(self, stage: Stage) -> None:
        """A stage starts from the average of the one before, with fresh optimisers."""
        generator = self.average
        if stage.planes != generator.config.plane_resolution:
            generator = grow(generator, dataclasses.replace(CONFIG, plane_resolution=stage.planes))
        if stage.objective == "pictures":  # super-resolution starts as the raw image upsampled
            for block in (generator.superresolution.block0, generator.superresolution.block1):
                torch.nn.init.zeros_(block.torgb.weight)
                torch.nn.init.zeros_(block.torgb.bias)
        self._adopt(generator)
        self._seed()

    def _losses(self, stage: Stage) -> Callable[[], dict[str, torch.Tensor]]:
        def points() -> dict[str, torch.Tensor]:
            return point_loss(self.generator, self.bank.batch(stage.heads, stage.rays, self.rng), self.noise)

        def rays() -> dict[str, torch.Tensor]:
            return ray_loss(self.generator, self.bank.batch(stage.heads, stage.rays, self.rng), self.noise)

        def pictures() -> dict[str, torch.Tensor]:
            z = torch.randn(stage.heads, Z_DIM, generator=self.noise)
            cameras = random_cameras(stage.heads, self.rng, yaw=64, pitch=28, wander=0.08)
            image, _, mask = truth(z, cameras, CONFIG.img_resolution)
            return picture_loss(self.generator, z, cameras, image, mask)

        return {"points": points, "rays": rays, "pictures": pictures}[stage.objective]

    def _train(self, stage: Stage, held_out: HeldOut | None) -> None:
        budget = 60 * self.minutes * stage.share
        losses_of = self._losses(stage)
        window: list[float] = []
        last_save = last_log = last_measure = time.time()
        while True:
            start = time.time()
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            losses = losses_of()
            sum(losses.values(), torch.zeros(())).backward()
            progress = self.team.average(self.generator.parameters(), self.spent / budget)
            if progress >= 1:
                break
            self._step(stage.rate * rate(progress, self.step))
            window.append(float(losses["colour"].detach()))
            self.spent += time.time() - start  # measuring and saving do not count
            if held_out is None:
                continue
            now = time.time()
            if now - last_log > 30:
                values = " ".join(f"{name} {float(value.detach()):.4f}" for name, value in losses.items())
                seconds = (now - last_log) / len(window)
                self.log(
                    f"{stage.name} {100 * progress:.0f} % step {self.step} mean colour {np.mean(window):.4f} "
                    f"({values}) {seconds:.2f} s/step, {self.bank.heads} heads in the bank"
                )
                last_log, window = now, []
            if now - last_save > 120:
                self.save()
                last_save = now
            if now - last_measure > 600:
                self.log(f"{stage.name} held out: {measure(export(self.average, None), held_out)}")
                last_measure = time.time()

    def _step(self, factor: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
        decay = min(0.998, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.generator.parameters(), strict=True)
            for average, parameter in pairs:
                average.lerp_(parameter, 1 - decay)
        self.step += 1
        if self.step % 50 == 0:
            self.bank.refresh()

    def log(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {text}"
        print(line, flush=True)  # noqa: T201
        with open(self.out / "log.txt", "a") as file:
            file.write(line + "\n")


def work(arguments: argparse.Namespace) -> None:
    """One worker of the team."""
    torch.set_num_threads(1)
    bank = Bank(arguments.bank)
    team = Team(arguments.rank, arguments.workers, arguments.out / "meeting_place")
    trainer = Trainer(arguments.out, arguments.minutes, bank, team)
    if (arguments.out / "checkpoint.pt").exists():
        trainer.resume()
    trainer.run(HeldOut.make() if team.rank == 0 else None, arguments.export)


def lead(arguments: argparse.Namespace) -> int:
    """Starts the makers of the bank, waits for its first shards, then starts the workers."""
    module = [sys.executable, "-m", "my3dgen_core.starter"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # Fresh pages of large buffers cost up to 40 % of the time; with these, glibc keeps what was freed.
    environment |= {"MALLOC_MMAP_THRESHOLD_": "17179869184", "MALLOC_TRIM_THRESHOLD_": "34359738368"}
    environment |= {"MALLOC_TOP_PAD_": "268435456"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.bank.mkdir(parents=True, exist_ok=True)
    if not arguments.resume:
        (arguments.out / "checkpoint.pt").unlink(missing_ok=True)
    bank, makers = Bank(arguments.bank), []
    if len(bank.names) < arguments.shards:
        command = [*module[:2], f"{module[2]}.bank", "--out", str(arguments.bank)]
        command += ["--shards", str(arguments.shards), "--part"]
        makers = [subprocess.Popen([*command, f"{i}/2"], env=environment) for i in range(2)]
    while len(bank.names) < min(4, arguments.shards):
        time.sleep(2)
        bank.refresh()
    (arguments.out / "meeting_place").unlink(missing_ok=True)
    command = [*module[:2], f"{module[2]}.train", *sys.argv[1:], "--rank"]
    workers = [subprocess.Popen([*command, str(i)], env=environment) for i in range(arguments.workers)]
    try:
        return max(abs(process.wait()) for process in [*workers, *makers])
    finally:
        for process in workers:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the starter generator.")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints, shards and the log")
    parser.add_argument("--minutes", type=float, default=100, help="wall clock of training, all stages")
    parser.add_argument("--shards", type=int, default=32, help="ray shards of 128 heads")
    parser.add_argument("--bank", type=Path, default=None, help="folder of shards (default OUT/bank)")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--export", type=Path, default=Path(__file__).with_name("starter.safetensors"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that train")
    parser.add_argument("--rank", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.bank = arguments.bank or arguments.out / "bank"
    if arguments.rank is None:
        sys.exit(lead(arguments))
    work(arguments)


if __name__ == "__main__":
    main()
