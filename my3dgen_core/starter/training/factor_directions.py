"""Directions of the starter's factors: the mean change of w when one factor of z changes.

    python -m my3dgen_core.starter.training.factor_directions
    python -m my3dgen_core.starter.training.factor_directions --demo-person FOLDER

The first command writes starter/directions/*.safetensors. The second writes the identity-preserving smile of
the demo person; FOLDER has face networks for detection, landmarks and recognition.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ...checkpoint import load_generator
from ...editing.direction import Direction
from ...editing.face_scores import SMILE, FaceGeometry
from ...editing.identity_preserving import find_local_directions
from ...eg3d.generator import Generator
from ...face import FaceModels, embed
from ...person.apply import personalized
from ...person.identity import Identity
from ...person.latents import Latents
from ..synthetic.factors import INDEX, Z_DIM
from .objectives import latents

FOLDER = Path(__file__).parents[1] / "directions"
DEMO_PERSON_SMILE = "demo_person_smile.safetensors"
# Factors whose directions are shipped, also names of their files.
ATTRIBUTES = ("smile", "jaw", "blink", "age", "gender", "weight", "skin", "hair_colour", "beard")


@torch.no_grad()
def factor_direction(generator: Generator, name: str, heads: int = 2000, seed: int = 0) -> Direction:
    """Compute the direction of a factor: half the mean change of w when the factor goes from -1 to +1.

    Args:
        generator: the starter.
        name: factor, one of `factors.NAMES`.
        heads: number of random heads to average over.
        seed: seed of the heads.

    Returns:
        Direction whose strength 1 is one standard deviation of the factor.
    """
    z = torch.randn(heads, Z_DIM, generator=torch.Generator().manual_seed(seed))
    z = z * (Z_DIM**0.5 / z.norm(dim=1, keepdim=True))
    low, high = z.clone(), z.clone()
    low[:, INDEX[name]], high[:, INDEX[name]] = -1.0, 1.0
    base_hash = generator.base_hash()
    before, after = (Latents(latents(generator, side), base_hash=base_hash) for side in (low, high))
    found = Direction.from_pairs(before, after, name)
    meta = {"source": "the starter's own factor", "heads": heads}
    return Direction(name, found.vector / 2, base_hash, meta)


def demo_person_smile(generator: Generator, face_models: FaceModels) -> Direction:
    """Find the identity-preserving smile of the bundled demo person."""
    identity = Identity.load(FOLDER.parent / "demo_identity.safetensors")
    with personalized(generator, identity):
        found = find_local_directions(
            generator, identity.anchors.mean(), FaceGeometry(face_models),
            lambda images: embed(images, face_models), [SMILE],
        )[SMILE]  # fmt: skip
    found.meta["identity"] = identity.content_hash()
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Write the starter's directions.")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument(
        "--demo-person", type=Path, metavar="FOLDER", help="the demo person's smile alone, by face models"
    )
    arguments = parser.parse_args()
    generator = load_generator("starter")
    if arguments.demo_person is not None:
        smile = demo_person_smile(generator, FaceModels.from_folder(arguments.demo_person))
        smile.save(arguments.out / DEMO_PERSON_SMILE)
        return
    for name in ATTRIBUTES:
        factor_direction(generator, name).save(arguments.out / f"{name}.safetensors")


if __name__ == "__main__":
    main()
