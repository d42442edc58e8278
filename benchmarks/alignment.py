"""Seconds per photo of face alignment, from file to crop and camera label, with models loaded.

    python -m benchmarks.alignment [--threads 2] [--rounds 3]

For an InsightFace pack and for MediaPipe's networks, in turns: six photographs of people, six pictures of the
demo person, and the photographs upside down, for which every stage of the face search runs. Gives wall-clock
and processor time, each the median over rounds of the mean over photos; on a busy machine only the processor
time is meaningful.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from face_fixtures import OTHERS, SAME_MAN, mediapipe_models, models
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
    sources = {"pack": models(), "MediaPipe": mediapipe_models()}
    for networks in sources.values():
        align_faces(piles["photographs"][:1], networks)  # warm up
    for name, pile in piles.items():
        walls: dict[str, list[float]] = {source: [] for source in sources}
        works: dict[str, list[float]] = {source: [] for source in sources}
        kept: dict[str, int] = {}
        for _ in range(options.rounds):
            for source, networks in sources.items():
                wall, work = time.perf_counter(), time.process_time()
                kept[source] = len(align_faces(pile, networks).kept)
                walls[source].append((time.perf_counter() - wall) / len(pile))
                works[source].append((time.process_time() - work) / len(pile))
        for source in sources:
            print(
                f"{name:12s} {source:9s} {kept[source]} of {len(pile)} kept, "
                f"{np.median(walls[source]):.2f} s a photo, "
                f"{np.median(works[source]):.2f} s of processor time"
            )


if __name__ == "__main__":
    main()
