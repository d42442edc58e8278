"""Train the bundled identities and write them with their cards. A few minutes each on a CPU.

    python tools/demo_identity.py             # the demo person, after every change of the starter's weights
    python tools/demo_identity.py --second    # the second, photos not bundled: needs extra `starter`

Workflows load these identities, so that they need no training.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
STARTER = ROOT / "my3dgen_core" / "starter"
SECOND = 301
"""Seed of the second person, who is not part of the study."""
MAX_BYTES = 1_000_000
"""Largest size of a bundled identity file."""
WHO = {
    False: ("The demo person", "the demo person (`demo_person/`)"),
    True: ("The second person", f"person {SECOND} of `my3dgen_core.starter`"),
}
CARD = """# {name}'s identity

What the starter generator learns of {who}, a head made by a computer and no real
person, so that workflows can begin with a person. Apache-2.0, like everything here.

| | |
|---|---|
| File | `{file}`, {size:,} bytes, {dtype} |
| Made by | `{command}`: {photos} photos with their true cameras |
| Steps | {shared} + {inversion} of inversion, {steps} of training, seed {seed} |
| Generator | the starter, base hash `{base_hash}`; another one refuses it |
| Holds | {parameters:,} numbers of update (rank {rank}, {layout}) and {photos} anchors with cameras |
| {views} held-out views, mean anchor | PSNR {before:.2f} dB with the starter alone, {after:.2f} dB with it |
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--second", action="store_true", help="the second person instead of the demo person")
    parser.add_argument("--out", type=Path, help="output file; the card is written next to it")
    parser.add_argument("--steps", type=int, help="training steps (default: those of TuningConfig)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    from my3dgen_core import InversionConfig, TuningConfig, evaluate, invert, load_generator, personalize
    from my3dgen_core.eg3d.rendering.backend import select_backend
    from my3dgen_core.evaluation import read_demo_person

    second: bool = arguments.second
    out: Path = arguments.out or STARTER / f"{'second' if second else 'demo'}_identity.safetensors"
    generator = load_generator(device=arguments.device)
    select_backend(generator, "auto")
    photos, cameras, views, view_cameras = (
        part.to(arguments.device) for part in (second_person() if second else read_demo_person())
    )
    inversion = InversionConfig()
    tuning = TuningConfig() if arguments.steps is None else TuningConfig(steps=arguments.steps)
    begin = time.perf_counter()
    anchors = invert(generator, photos, cameras, inversion, on_step=print_progress("inversion"))
    identity = personalize(generator, photos, anchors, tuning, on_step=print_progress("training"))
    print(f"\r{time.perf_counter() - begin:.0f} s")
    identity.save(out, torch.float16)
    size = out.stat().st_size
    if size > MAX_BYTES:
        out.unlink()
        print(f"The identity has {size:,} bytes, more than {MAX_BYTES:,}: deleted.", file=sys.stderr)
        return 1
    scores = evaluate(generator, type(identity).load(out), views, view_cameras)
    name, who = WHO[second]
    command = "python tools/demo_identity.py" + (" --second" if second else "")
    card = CARD.format(
        name=name, who=who, file=out.name, command=command,
        size=size, dtype="float16", photos=len(photos), views=len(views),
        shared=inversion.shared_steps, inversion=inversion.steps, steps=tuning.steps, seed=tuning.seed,
        base_hash=identity.base_hash[:12], parameters=identity.adapter.parameter_count,
        rank=identity.adapter.rank, layout=identity.adapter.layout,
        before=scores["pretrained"].psnr, after=scores["personalized"].psnr,
    )  # fmt: skip
    out.with_suffix(".md").write_text(card, encoding="utf-8")
    print(f"{out}\n\n{card}")
    return 0


def second_person() -> tuple[torch.Tensor, ...]:
    """Return photos and held-out views with their cameras, as many as for the demo person."""
    from my3dgen_core import look_at
    from my3dgen_core.starter import person
    from my3dgen_core.starter.training.write_demo_person import HELD_OUT, PHOTOS, SIZE

    someone = person(SECOND)
    views = torch.cat([look_at(math.radians(yaw), math.radians(pitch)) for yaw, pitch in HELD_OUT])
    return *someone.photos(PHOTOS, seed=0, resolution=SIZE), someone.render(views, SIZE)[0], views


def print_progress(what: str) -> Callable[..., None]:
    """Return an `on_step` that prints progress on a terminal."""

    def on_step(step: int, total: int, *_: object) -> None:
        if sys.stdout.isatty():
            print(f"\r{what} {step}/{total}", end="", flush=True)

    return on_step


if __name__ == "__main__":
    sys.exit(main())
