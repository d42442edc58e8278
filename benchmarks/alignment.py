"""Seconds per photo of face alignment, from file to crop and camera label, with models loaded.

    python -m benchmarks.alignment [--threads 2] [--rounds 3]

Six photographs of people, six pictures of the demo person, and the photographs upside down, for which every
stage of the face search runs. Gives wall-clock and processor time, each the median over rounds of the mean
over photos; on a busy machine only the processor time is meaningful.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from face_fixtures import OTHERS, SAME_MAN, models
from real_photos import photo, photo_path

from my3dgen_core import starter
from my3dgen_core.face import align_faces


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = (*SAME_MAN, *OTHERS)
    renders = sorted((Path(starter.__file__).parent / "demo_person" / "photos").iterdir())
    piles = {
        "photographs": [photo_path(name) for name in names],
        "renders": renders[:6],
        "upside down": [np.rot90(photo(name), 2).copy() for name in names],
    }
    align_faces(piles["photographs"][:1], models())  # load the models and warm up
    for name, pile in piles.items():
        walls, works = [], []
        for _ in range(options.rounds):
            wall, work = time.perf_counter(), time.process_time()
            kept = len(align_faces(pile, models()).kept)
            walls.append((time.perf_counter() - wall) / len(pile))
            works.append((time.process_time() - work) / len(pile))
        print(
            f"{name:12s} {kept} of {len(pile)} kept, {np.median(walls):.2f} s a photo, "
            f"{np.median(works):.2f} s of processor time"
        )


if __name__ == "__main__":
    main()
