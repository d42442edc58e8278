"""Command `python -m my3dgen_core evaluate`: evaluate on the demo person, or on a folder of photos."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ..checkpoint import load_generator
from ..eg3d.rendering.backend import select_backend
from ..face import FaceModels
from ..fitting.inversion import InversionConfig
from ..fitting.lpips import lpips as load_lpips
from ..fitting.tuning import TuningConfig
from .demo import personalize_demo_person
from .dists import dists as load_dists
from .held_out_views import HeldOutScores, table
from .photo_folder import align_folder, protocol_table, run_protocols, train
from .protocols import HELD_OUT, quick


def as_json(results: Mapping[str, Mapping[str, HeldOutScores]], seconds: Mapping[str, float]) -> str:
    """Return the results of `personalize_demo_person` as JSON, with "scores" and "seconds"."""
    scores = {name: {model: asdict(s) for model, s in one.items()} for name, one in results.items()}
    return json.dumps({"scores": scores, "seconds": dict(seconds)}, indent=1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.add_argument("--generator", default="starter", help="'starter' or a file")
    parser.add_argument(
        "--face-models", type=Path, help="folder of ONNX face models: adds identity and alignment"
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument(
        "--photos",
        type=Path,
        metavar="FOLDER",
        help="photos of one person to evaluate instead of the demo person",
    )
    parser.add_argument("--steps", type=int, help="training steps (default: those of TuningConfig)")
    parser.add_argument(
        "--held-out-steps",
        type=int,
        default=HELD_OUT.steps,
        help="inversion steps of held-out photos (default, as in the paper: %(default)s)",
    )
    parser.add_argument(
        "--perceptual", type=Path, metavar="FOLDER", help="weights of LPIPS (AlexNet), to measure it as well"
    )
    parser.add_argument(
        "--dists", type=Path, metavar="FOLDER", help="weights of DISTS, to measure it as well"
    )


def main(args: argparse.Namespace) -> str:
    """Run the command and return its tables as Markdown.

    Raises:
        ValueError: photos without face models.
    """
    face_models = None if args.face_models is None else FaceModels.from_folder(args.face_models)
    generator = load_generator(args.generator)
    select_backend(generator, "auto")
    tuning = TuningConfig() if args.steps is None else TuningConfig(steps=args.steps)
    if args.photos is None:
        results, seconds = personalize_demo_person(generator, InversionConfig(), tuning, face_models)
        if args.json is not None:
            args.json.write_text(as_json(results, seconds))
        times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
        return f"{table(results)}\n\n{times}"
    if face_models is None:
        raise ValueError("Photos have to be aligned first: name a folder with --face-models.")
    lpips = None
    if args.perceptual is not None:
        lpips = load_lpips("lpips_alex", args.perceptual, generator.w_avg.device)
    dists = None
    if args.dists is not None:
        dists = load_dists(args.dists, generator.w_avg.device)
    part = align_folder(args.photos, face_models)
    identity = train(generator, part, InversionConfig(), tuning)
    held_out = HELD_OUT if args.held_out_steps == HELD_OUT.steps else quick(HELD_OUT, args.held_out_steps)
    measures = run_protocols(
        generator, identity, part, face_models, lpips=lpips, dists=dists, held_out=held_out
    )
    if args.json is not None:
        inversion = held_out.fingerprint_settings | {"steps": held_out.steps}
        settings = {"tuning": tuning.fingerprint_settings, "held_out_inversion": inversion}
        report = {"measures": measures, "held_out": list(part.held_names), "settings": settings}
        args.json.write_text(json.dumps(report, indent=1))
    return (
        f"{protocol_table(measures)}\n\n{len(part.photos)} photos trained on; held out: "
        f"{', '.join(part.held_names)}. {identity.adapter.parameter_count:,} parameters, "
        f"{identity.nbytes:,} bytes with anchors. Identity is a cosine (higher is nearer), identity error "
        f"1 - the cosine with the nearest photo. Held-out inversion took {held_out.steps} steps."
    )
