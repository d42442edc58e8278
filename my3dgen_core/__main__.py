"""Command line: `python -m my3dgen_core convert in.pkl out.safetensors`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from .checkpoint import convert, save_generator
from .common.errors import CheckpointError
from .person.identity import split_snapshot
from .person.my3dgen_snapshot import is_snapshot


def _evaluation() -> ModuleType:
    from . import evaluation

    return evaluation


def _builder() -> ModuleType:
    from .eg3d.rendering.compiled import builder

    return builder


MODULES: dict[str, tuple[Callable[[], ModuleType], str]] = {
    "evaluate": (_evaluation, "tune on the demo person or on photos of your own, and score held-out views"),
    "build-kernels": (_builder, "compile the faster renderer for this machine"),
}
"""Subcommands in modules of their own, which have `add_arguments(parser)` and `main(args)`; each is imported
only when it is used, so that the others start fast."""


def convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `convert`."""
    parser.add_argument("source", type=Path, help="an official .pkl, a fine-tune, a .pt or .safetensors")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    parser.add_argument("--half", action="store_true", help="float16: half the size, rounded weights")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument(
        "--identity",
        type=Path,
        metavar="FILE",
        help="for a My3DGen snapshot: also write its identity (.safetensors)",
    )
    parser.add_argument(
        "--merged",
        action="store_true",
        help="for a My3DGen snapshot: write base and identity as one generator",
    )


def run_convert(args: argparse.Namespace) -> None:
    """Run `convert` and print what was written."""
    dtype = torch.float16 if args.half else torch.float32
    if args.identity is None and not args.merged:
        generator = convert(args.source, args.target, dtype, args.overwrite)
    else:
        for file in filter(None, (args.target, args.identity)):
            if file.exists() and not args.overwrite:
                raise FileExistsError(f"{file} exists already. Choose another name, or use --overwrite.")
        generator, identity = split_snapshot(args.source)
        adapter = identity.adapter if args.merged else None
        provenance = {**identity.provenance, "base_hash": identity.base_hash}
        save_generator(generator, args.target, dtype, adapter=adapter, provenance=provenance)
        if args.identity is not None:
            identity.save(args.identity)
            print(f"{args.identity}: {identity.adapter.parameter_count} parameters of one identity")
    print(f"{args.target}: {generator.config.img_resolution} px, base hash {generator.base_hash()}")
    if not args.merged and args.identity is None and is_snapshot(args.source):
        print(
            "The source is a My3DGen snapshot; this is its base. Add --identity FILE to write its identity."
        )


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        arguments: command line without the program's name; None: that of the process.

    Returns:
        Exit status: 0, or 2 for an error in the input, with a message on stderr.
    """
    parser = argparse.ArgumentParser("my3dgen_core", description="Personal 3D heads from photos.")
    commands = parser.add_subparsers(dest="command", required=True)
    converter = commands.add_parser("convert", help="write any generator as safetensors")
    convert_arguments(converter)
    converter.set_defaults(run=run_convert)
    arguments = sys.argv[1:] if arguments is None else arguments
    for name, (imported, text) in MODULES.items():
        command = commands.add_parser(name, help=text)
        if arguments[:1] == [name]:
            module = imported()
            module.add_arguments(command)
            command.set_defaults(run=module.main)
    args = parser.parse_args(arguments)
    try:
        text = args.run(args)
        if text:
            print(text)
    except (CheckpointError, FileNotFoundError, FileExistsError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
