"""Trains the bundled identity, the demo person's, and writes it with its card. A minute or two on a CPU.

    python tools/demo_identity.py          # after every change of the starter's weights

The workflows that begin with a person load it, so that they need no training.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "my3dgen_core" / "starter" / "demo_identity.safetensors"
LARGEST = 1_000_000
CARD = """# The demo person's identity

What the starter generator learns of the demo person (`demo_person/`, a head made by a computer; no real
person), so that workflows can begin with a person. Apache-2.0, like everything here.

| | |
|---|---|
| File | `demo_identity.safetensors`, {size:,} bytes, {dtype} |
| Made by | `python tools/demo_identity.py`: {photos} photos with their true cameras |
| Steps | {shared} + {inversion} of inversion, {steps} of training, seed {seed} |
| Generator | the starter, base hash `{base_hash}`; another one refuses it |
| Holds | {parameters:,} numbers of update (rank {rank}, {layout}) and {photos} anchors with cameras |
| {views} held-out views, mean anchor | PSNR {before:.2f} dB with the starter alone, {after:.2f} dB with it |
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=TARGET, help="the file; the card is written beside it")
    parser.add_argument("--steps", type=int, help="of training (default: the settings' own)")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    from my3dgen_core import (
        InversionConfig,
        TuningConfig,
        evaluate,
        invert,
        kernels,
        load_generator,
        personalize,
    )
    from my3dgen_core.evaluation import read_demo_person

    generator = load_generator(device=arguments.device)
    kernels.choose(generator, "auto")
    photos, cameras, views, view_cameras = (part.to(arguments.device) for part in read_demo_person())
    inversion = InversionConfig()
    tuning = TuningConfig() if arguments.steps is None else TuningConfig(steps=arguments.steps)
    begin = time.perf_counter()
    anchors = invert(generator, photos, cameras, inversion, on_step=told("inversion"))
    identity = personalize(generator, photos, anchors, tuning, on_step=told("training"))
    print(f"\r{time.perf_counter() - begin:.0f} s")
    identity.save(arguments.out, torch.float16)
    size = arguments.out.stat().st_size
    if size > LARGEST:
        arguments.out.unlink()
        print(f"The identity has {size:,} bytes, more than {LARGEST:,}: it is not kept.", file=sys.stderr)
        return 1
    scores = evaluate(generator, type(identity).load(arguments.out), views, view_cameras)
    card = CARD.format(
        size=size, dtype="float16", photos=len(photos), views=len(views),
        shared=inversion.shared_steps, inversion=inversion.steps, steps=tuning.steps, seed=tuning.seed,
        base_hash=identity.base_hash[:12], parameters=identity.adapter.parameter_count,
        rank=identity.adapter.rank, layout=identity.adapter.layout,
        before=scores["pretrained"].psnr, after=scores["personalised"].psnr,
    )  # fmt: skip
    arguments.out.with_suffix(".md").write_text(card, encoding="utf-8")
    print(f"{arguments.out}\n\n{card}")
    return 0


def told(what: str) -> Callable[..., None]:
    """An on_step that counts where someone is watching."""

    def on_step(step: int, total: int, *_: object) -> None:
        if sys.stdout.isatty():
            print(f"\r{what} {step}/{total}", end="", flush=True)

    return on_step


if __name__ == "__main__":
    sys.exit(main())
