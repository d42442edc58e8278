"""Training of the starter generator on synthetic heads, in stages from cheap to expensive; resumable.

    python -m my3dgen_core.starter.training.train --out runs/starter

Background processes write rays and pictures (`make_shards`) while the first stages run. The training runs in
one process per core (`data_parallel`), or on one GPU with `--scale` times as many heads per step. Each stage
takes its share of `--minutes` of wall-clock time, so its learning rate reaches the end of the schedule on any
machine. Every stage ends with an export; OUT/latest.safetensors is the last measured state.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ...checkpoint import load_generator
from ...eg3d.config import GeneratorConfig
from ...eg3d.generator import Generator
from ...eg3d.rendering import compiled
from .data_parallel import DataParallelGroup
from .export import export, unfolded
from .held_out import HeldOut, measure
from .objectives import picture_loss, point_loss, ray_loss
from .picture_shards import PictureShards
from .ray_shards import RayShards
from .shards import Shards
from .stages import STAGES, Stage, grow, optimizers, rate


class StarterTrainer:
    """State of a training: stage, generator, its moving average, optimizers and time spent.

    Args:
        out: folder of checkpoints and the log.
        minutes: wall-clock time of all stages.
        data: folder of shards.
        group: processes that train together.
        start: finished starter to continue from, with the stage of pictures alone; None trains from scratch.
        device: device of the training.
        scale: factor of the number of heads per step.
    """

    def __init__(
        self,
        out: Path,
        minutes: float,
        data: Path,
        group: DataParallelGroup,
        start: Path | None,
        device: torch.device | str = "cpu",
        scale: int = 1,
    ) -> None:
        self.out, self.minutes, self.group, self.start = out, minutes, group, start
        self.device, self.scale = torch.device(device), scale
        self.ray_shards, self.picture_shards = RayShards(data), PictureShards(data)
        self.step, self.spent = 0, 0.0
        self.first = self.stage = first_stage(start)
        torch.manual_seed(0)
        self._adopt(Generator(STAGES[0].config) if start is None else unfolded(load_generator(start)))
        self._seed()

    def _seed(self) -> None:
        """Seed the random generators differently in every worker, stage and resumption."""
        seed = [self.group.rank, self.stage, self.step]
        self.rng = np.random.default_rng(seed)
        self.noise = torch.Generator(self.device)
        self.noise.manual_seed(int(np.random.default_rng([*seed, 1]).integers(1 << 62)))

    def _adopt(self, generator: Generator) -> None:
        """Train this generator from now on, with a new average and new optimizers."""
        generator = generator.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        generator.renderer = "compiled" if self.device.type == "cpu" and compiled.available() else "torch"
        self.generator = generator
        self.average = copy.deepcopy(generator).requires_grad_(False)
        self.optimizers = optimizers(generator)

    def save(self) -> None:
        """Write the whole state to OUT/checkpoint.pt atomically, so that a kill leaves a valid file."""
        state = {
            "stage": self.stage,
            "step": self.step,
            "spent": self.spent,
            "config": json.dumps(self.generator.config.to_dict()),
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        partial = self.out / "checkpoint.tmp"
        torch.save(state, partial)
        partial.replace(self.out / "checkpoint.pt")

    def resume(self) -> None:
        """Load the state of OUT/checkpoint.pt."""
        state = torch.load(self.out / "checkpoint.pt", map_location=self.device, weights_only=True)
        self.stage, self.step, self.spent = state["stage"], state["step"], state["spent"]
        self._adopt(Generator(GeneratorConfig.from_dict(json.loads(state["config"]))))
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._seed()

    def run(self, held_out: HeldOut | None, shipped: Path) -> None:
        """Train all remaining stages.

        Args:
            held_out: ground truth for the leader, which measures and writes; None in other workers.
            shipped: .safetensors file of the finished generator.
        """
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
            self.group.wait()

    def _begin(self, stage: Stage) -> None:
        """Begin a stage from the average of the one before, with new optimizers."""
        generator = self.average
        if stage.config != generator.config:
            torch.manual_seed(self.stage)  # random weights of new channels are the same in every worker
            generator = grow(generator, stage.config)
        if stage.objective == "pictures" and self.start is None:
            # Super-resolution starts as plain upsampling of the raw picture.
            for block in (generator.superresolution.block0, generator.superresolution.block1):
                torch.nn.init.zeros_(block.torgb.weight)
                torch.nn.init.zeros_(block.torgb.bias)
        self._adopt(generator)
        self._seed()

    def _losses(self, stage: Stage) -> Callable[[], dict[str, torch.Tensor]]:
        """Return a function that samples a batch and computes the losses of the stage by name."""
        heads = stage.heads * self.scale

        def points() -> dict[str, torch.Tensor]:
            batch = self.ray_shards.batch(heads, stage.rays, self.rng, self.device)
            return point_loss(self.generator, batch, self.noise)

        def rays() -> dict[str, torch.Tensor]:
            batch = self.ray_shards.batch(heads, stage.rays, self.rng, self.device)
            return ray_loss(self.generator, batch, self.noise)

        def pictures() -> dict[str, torch.Tensor]:
            batch = self.picture_shards.batch(heads, stage.views, self.rng, self.device)
            return picture_loss(self.generator, batch)

        return {"points": points, "rays": rays, "pictures": pictures}[stage.objective]

    def _train(self, stage: Stage, held_out: HeldOut | None) -> None:
        """Train one stage until its time is spent."""
        budget = 60 * self.minutes * stage.share / sum(other.share for other in STAGES[self.first :])
        data: Shards = self.picture_shards if stage.objective == "pictures" else self.ray_shards
        data.wait()
        losses_of = self._losses(stage)
        window: list[float] = []
        last_save = last_log = last_measure = time.time()
        while True:
            start = time.time()
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            losses = losses_of()
            torch.stack(list(losses.values())).sum().backward()
            progress = self.group.average(self.generator.parameters(), self.spent / budget)
            if progress >= 1:
                break
            self._step(stage.rate * rate(progress, self.step))
            if self.step % 50 == 0:
                data.refresh()
            window.append(float(losses["color"].detach()))
            self.spent += time.time() - start  # without measuring and saving
            if held_out is None:
                continue
            now = time.time()
            if now - last_log > 30:
                values = " ".join(f"{name} {float(value.detach()):.4f}" for name, value in losses.items())
                seconds = (now - last_log) / len(window)
                self.log(
                    f"{stage.name} {100 * progress:.0f} % step {self.step} mean color {np.mean(window):.4f} "
                    f"({values}) {seconds:.2f} s/step, {data.heads} heads"
                )
                last_log, window = now, []
            if now - last_save > 120:
                self.save()
                last_save = now
            if now - last_measure > 300:
                latest = export(self.average, self.out / "latest.safetensors")
                self.log(f"{stage.name} held out: {measure(latest, held_out)}")
                last_measure = time.time()

    def _step(self, factor: float) -> None:
        """Step the optimizers at `factor` times their peak rates, and update the average."""
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

    def log(self, text: str) -> None:
        """Print a line with the time, and append it to OUT/log.txt."""
        line = f"{time.strftime('%H:%M:%S')} {text}"
        print(line, flush=True)  # noqa: T201
        with open(self.out / "log.txt", "a") as file:
            file.write(line + "\n")


def first_stage(start: Path | None) -> int:
    """Return the index of the first stage: that of pictures if a finished generator is given, else 0."""
    return 0 if start is None else [stage.objective for stage in STAGES].index("pictures")


def work(arguments: argparse.Namespace) -> None:
    """Run one worker."""
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    group = DataParallelGroup(arguments.rank, arguments.workers, arguments.out / "rendezvous")
    trainer = StarterTrainer(
        arguments.out,
        arguments.minutes,
        arguments.data,
        group,
        arguments.start,
        arguments.device,
        arguments.scale,
    )
    if (arguments.out / "checkpoint.pt").exists():
        trainer.resume()
    trainer.run(HeldOut.make(device=arguments.device) if group.rank == 0 else None, arguments.export)


def lead(arguments: argparse.Namespace) -> int:
    """Start the processes that write shards, wait for the first shards, then run the workers.

    Returns:
        The largest exit code of all processes.
    """
    module = [sys.executable, "-m", "my3dgen_core.starter.training"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # Page faults of newly allocated buffers cost up to 40 % of the time; with these settings glibc keeps
    # freed memory.
    environment |= {"MALLOC_MMAP_THRESHOLD_": "17179869184", "MALLOC_TRIM_THRESHOLD_": "34359738368"}
    environment |= {"MALLOC_TOP_PAD_": "268435456"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.data.mkdir(parents=True, exist_ok=True)
    if not arguments.resume:
        (arguments.out / "checkpoint.pt").unlink(missing_ok=True)
    kinds: list[type[Shards]] = [RayShards, PictureShards] if arguments.start is None else [PictureShards]
    command = [*module[:2], f"{module[2]}.make_shards", "--out", str(arguments.data)]
    command += ["--shards", str(arguments.shards), "--device", arguments.device]
    for kind in kinds:
        command += ["--kind", kind.kind]
    count = arguments.makers
    makers = [subprocess.Popen([*command, "--part", f"{i}/{count}"], env=environment) for i in range(count)]
    while not all(kinds[0].path(arguments.data, i).exists() for i in range(min(4, arguments.shards))):
        time.sleep(2)
    (arguments.out / "rendezvous").unlink(missing_ok=True)
    command = [*module[:2], f"{module[2]}.train", *sys.argv[1:], "--rank"]
    workers = [subprocess.Popen([*command, str(i)], env=environment) for i in range(arguments.workers)]
    try:
        return max(abs(process.wait()) for process in [*workers, *makers])
    finally:
        for process in workers:
            process.terminate()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Train the starter generator.")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints, shards and the log")
    parser.add_argument("--minutes", type=float, default=200, help="wall clock of training, all stages")
    parser.add_argument("--shards", type=int, default=32, help="of rays of 128 heads, and of pictures of 64")
    parser.add_argument("--data", type=Path, default=None, help="folder of shards (default OUT/data)")
    parser.add_argument(
        "--start", type=Path, default=None, help="a finished starter: only the pictures are trained, from it"
    )
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--export", type=Path, default=Path(__file__).parents[1] / "starter.safetensors")
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--workers", type=int, default=None, help="processes that train: a core each, or 1 GPU"
    )
    parser.add_argument("--makers", type=int, default=None, help="processes that make shards")
    parser.add_argument("--scale", type=int, default=None, help="heads a step, times those of one core")
    parser.add_argument("--rank", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.data = arguments.data or arguments.out / "data"
    gpu, cores = arguments.device != "cpu", os.cpu_count() or 1
    arguments.workers = arguments.workers or (1 if gpu else cores)
    arguments.makers = arguments.makers or (max(2, cores // 2) if gpu else 2)
    arguments.scale = arguments.scale or (32 if gpu else 1)
    if arguments.rank is None:
        sys.exit(lead(arguments))
    work(arguments)


if __name__ == "__main__":
    main()
