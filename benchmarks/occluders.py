"""Hit rate and false alarms of the occlusion warnings of face alignment.

    python -m benchmarks.occluders [--persons 20] [--first 0] [--seeds 2] [--json FILE]

Draws a hand, a mask, a lock of hair, a microphone and the brim of a hat over the crops of six real
photographs, aligns them, and counts the warnings. Then aligns unoccluded renders of synthetic persons (yaw
+-30, pitch +-15 degrees, 256 pixels; seeds from `--first` on), where every warning is a false alarm. The
thresholds were chosen on renders of the persons from 200 on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from face_fixtures import models, real_batch
from occluders import KINDS, covered

from my3dgen_core.common.image_ops import to_pixels
from my3dgen_core.face import FaceReport, align_faces


def warnings(pictures: list[np.ndarray | torch.Tensor]) -> list[str]:
    """Return the warning for each picture: "mouth", "eyes", "nose", "dropped" or ""."""
    report: list[FaceReport] = []
    for picture in pictures:
        try:
            report += align_faces([picture], models(), det_size=320, max_yaw=90).report
        except ValueError:
            report.append(FaceReport(0, ""))
    texts = [" ".join(row.warnings) for row in report]
    parts = [text.partition("may cover the ")[2].partition(".")[0] for text in texts]
    return [part if row.kept else "dropped" for part, row in zip(parts, report, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--persons", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed of the first person")
    parser.add_argument("--seeds", type=int, default=2, help="drawings of each occluder over each face")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    batch = real_batch()
    faces = [
        (to_pixels(image), row.points)
        for image, row in zip(batch.images, batch.report, strict=True)
        if row.points is not None
    ]
    results: dict[str, tuple[int, int, int]] = {}
    bare = warnings([crop for crop, _ in faces])
    results["bare photographs"] = (sum(map(bool, bare)), 0, len(bare))
    for kind, part in KINDS.items():
        drawn = [
            covered(crop, points, kind, 100 * face + seed)
            for face, (crop, points) in enumerate(faces)
            for seed in range(options.seeds)
        ]
        found = warnings(drawn)
        results[kind] = (sum(map(bool, found)), found.count(part), len(found))
    from my3dgen_core.starter import person

    renders = [
        image
        for seed in range(options.first, options.first + options.persons)
        for image in person(seed).photos(3, 0, 256, 30.0, 15.0)[0]
    ]
    found = [part for part in warnings(renders) if part != "dropped"]
    results["bare renders"] = (sum(map(bool, found)), 0, len(found))
    for name, (noticed, right, count) in results.items():
        place = "" if name.startswith("bare") else f", {right} at the right place"
        print(f"{name:18s} {noticed} of {count} with a warning{place}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
