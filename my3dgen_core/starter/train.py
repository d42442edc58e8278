"""Training of the starter generator on synthetic heads, cheap stages first; resumable, one command.

    python -m my3dgen_core.starter.train --out runs/starter

Ray shards are made by background processes while the first stage runs (`bank`). A stage lasts a share of
`--minutes` of wall clock, so its learning rate falls to the end on any machine; every stage ends with an
export.
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..eg3d.config import GeneratorConfig
from ..eg3d.generator import Generator
from .bank import Bank
from .export import export
from .metrics import HeldOut, measure
from .objectives import point_loss, ray_loss
from .optimizer import Muon
from .sharpen import train_superresolution

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
    """One stage: share of the time, size of the planes, what is supervised, batch and learning rate."""

    name: str
    share: float
    planes: int
    objective: str  # "points", "rays" or "pixels"
    heads: int = 4
    rays: int = 512
    rate: float = 1.0


STAGES = (
    Stage("points64", 0.08, 64, "points", rays=768),
    Stage("rays64", 0.10, 64, "rays", rays=512, rate=0.7),
    Stage("points128", 0.04, 128, "points", rays=768, rate=0.6),
    Stage("rays128", 0.49, 128, "rays", rays=768, rate=0.4),
    Stage("clear128", 0.11, 128, "rays", rays=768, rate=0.15),
    Stage("sharpen", 0.18, 128, "pixels"),
)


def optimizers(generator: Generator) -> list[torch.optim.Optimizer]:
    """Muon on the weights of convolutions and affines, Adam on the rest; the mapping's rates are 100 times
    larger."""
    groups: list[list[torch.nn.Parameter]] = [[], [], [], []]
    weights, rest, mapping, mapping_bias = groups
    for name, parameter in generator.named_parameters():
        trained = not name.startswith("superresolution") and not name.endswith("noise_strength")
        parameter.requires_grad_(trained and ".embed." not in name)
        if not parameter.requires_grad:
            continue
        if ".mapping." in name:
            (mapping if parameter.ndim == 2 else mapping_bias).append(parameter)
        elif name.startswith("backbone") and name.endswith(".weight"):
            weights.append(parameter)
        else:
            rest.append(parameter)
    adam = [
        {"params": rest, "lr": 4e-2},
        {"params": mapping, "lr": 5e-3 * 100},
        {"params": mapping_bias, "lr": 5e-3 * 100},
    ]
    made: list[torch.optim.Optimizer] = [Muon(weights, lr=1e-2), torch.optim.Adam(adam, betas=(0.9, 0.99))]
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

    def __init__(self, out: Path, minutes: float, bank: Bank) -> None:
        self.out, self.minutes, self.bank = out, minutes, bank
        self.stage, self.step, self.spent = 0, 0, 0.0
        self.rng, self.noise = np.random.default_rng(0), torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        self._adopt(Generator(dataclasses.replace(CONFIG, plane_resolution=STAGES[0].planes)))

    def _adopt(self, generator: Generator) -> None:
        self.generator = generator
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
        self.rng = np.random.default_rng([self.stage, self.step])
        self.noise.manual_seed(1000 * self.stage + self.step)

    def run(self, held_out: HeldOut, shipped: Path) -> None:
        while self.stage < len(STAGES):
            stage = STAGES[self.stage]
            if stage.planes != self.generator.config.plane_resolution:
                self._adopt(grow(self.average, dataclasses.replace(CONFIG, plane_resolution=stage.planes)))
            if stage.objective == "pixels":
                folded = export(self.average, None)
                train_superresolution(folded, 60 * self.minutes * stage.share, self.log)
                self.average = folded
                finished = folded
            else:
                self._train(stage, held_out)
                finished = export(self.average, None)
            export(finished, shipped, fold=False)
            export(finished, self.out / f"{self.stage}_{stage.name}.safetensors", fold=False)
            self.log(f"{stage.name} done: {measure(finished, held_out)}")
            self.stage, self.step, self.spent = self.stage + 1, 0, 0.0
            if stage.objective != "pixels":
                self.optimizers = optimizers(self.generator.requires_grad_(True))
                self.generator.load_state_dict(self.average.state_dict())
                self.save()

    def _train(self, stage: Stage, held_out: HeldOut) -> None:
        budget = 60 * self.minutes * stage.share
        loss_of = point_loss if stage.objective == "points" else ray_loss
        window: list[float] = []
        last_save = last_log = last_measure = time.time()
        while self.spent < budget:
            start = time.time()
            factor = stage.rate * rate(self.spent / budget, self.step)
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * factor
                optimizer.zero_grad(set_to_none=True)
            losses = loss_of(self.generator, self.bank.batch(stage.heads, stage.rays, self.rng), self.noise)
            sum(losses.values(), torch.zeros(())).backward()
            for optimizer in self.optimizers:
                optimizer.step()
            decay = min(0.998, (self.step + 1) / (self.step + 10))
            with torch.no_grad():
                for average, parameter in zip(
                    self.average.parameters(), self.generator.parameters(), strict=True
                ):
                    average.lerp_(parameter, 1 - decay)
            self.step += 1
            window.append(float(losses["colour"].detach()))
            now = time.time()
            if now - last_log > 20:
                done = f"{100 * self.spent / budget:.0f} %"
                values = " ".join(f"{name} {float(value.detach()):.4f}" for name, value in losses.items())
                seconds = (now - last_log) / len(window)
                self.log(
                    f"{stage.name} {done} step {self.step} mean colour {np.mean(window):.4f} ({values}) "
                    f"{seconds:.2f} s/step, {self.bank.refresh()} heads"
                )
                last_log, window = now, []
            self.spent += time.time() - start  # measuring and saving do not count
            if now - last_save > 120:
                self.save()
                last_save = now
            if now - last_measure > 600:
                self.log(f"{stage.name} held out: {measure(export(self.average, None), held_out)}")
                last_measure = time.time()

    def log(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {text}"
        print(line, flush=True)  # noqa: T201
        with open(self.out / "log.txt", "a") as file:
            file.write(line + "\n")


def _tune_malloc() -> None:
    """Restarts once with glibc settings that keep freed buffers: fresh pages cost up to 40 % of the time."""
    wanted = {"MALLOC_MMAP_THRESHOLD_": "17179869184", "MALLOC_TRIM_THRESHOLD_": "34359738368"}
    wanted["MALLOC_TOP_PAD_"] = "268435456"
    if sys.platform == "linux" and any(name not in os.environ for name in wanted):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, "-m", "my3dgen_core.starter.train", *sys.argv[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the starter generator.")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints, shards and the log")
    parser.add_argument("--minutes", type=float, default=60, help="wall clock of training, all stages")
    parser.add_argument("--shards", type=int, default=48, help="ray shards of 128 heads")
    parser.add_argument("--bank", type=Path, default=None, help="folder of shards (default OUT/bank)")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--export", type=Path, default=Path(__file__).with_name("starter.safetensors"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    arguments = parser.parse_args()
    _tune_malloc()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    folder = arguments.bank or arguments.out / "bank"
    folder.mkdir(parents=True, exist_ok=True)
    bank = Bank(folder)
    makers = []
    if len(bank.names) < arguments.shards:
        command = [sys.executable, "-m", "my3dgen_core.starter.bank", "--out", str(folder)]
        command += ["--shards", str(arguments.shards)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        makers = [subprocess.Popen([*command, "--part", f"{i}/2"], env=environment) for i in range(2)]
    while len(bank.names) < min(4, arguments.shards):
        time.sleep(2)
        bank.refresh()
    trainer = Trainer(arguments.out, arguments.minutes, bank)
    if arguments.resume and (arguments.out / "checkpoint.pt").exists():
        trainer.resume()
    trainer.run(HeldOut.make(), arguments.export)
    for maker in makers:
        maker.wait()


if __name__ == "__main__":
    main()
