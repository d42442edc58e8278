"""Run the main workflow headlessly in a real ComfyUI: photos of one person in, a personal 3D head out.

    python tools/demo.py           # the bundled demo person, with ground truth from every side
    python tools/demo.py real      # photos: three of one man among portraits of other people

Results are written to ./output. ComfyUI is the one at COMFYUI_PATH, or one from the package index.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import build_renderer
import comfy
import face_test_pack
import mediapipe_wheel

ROOT = comfy.ROOT
WORKFLOW = ROOT / "workflows" / "api" / "personalize.json"
DEMO_PERSON = ROOT / "my3dgen_core" / "starter" / "demo_person" / "photos"
FACES = ROOT / "build" / "face"
WHEEL = FACES / "mediapipe"
LICENSES = {"demo": mediapipe_wheel.LICENSE_LINE, "real": face_test_pack.LICENSE_LINE}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("who", nargs="?", choices=("demo", "real"), default="demo")
    parser.add_argument("--output", type=Path, default=ROOT / "output", help="where results go")
    parser.add_argument("--quick", action="store_true", help="a few steps only, to see that everything runs")
    arguments = parser.parse_args()
    try:
        run(arguments.who, arguments.output, arguments.quick)
    except (comfy.ComfyError, RuntimeError, OSError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    return 0


def run(who: str, output: Path, quick: bool) -> None:
    """Copy the photos, run the workflow in a real ComfyUI, and print the summary."""
    base = comfy.make_base(ROOT / "build" / "demo")
    place_face_models(who, base / "models")
    folder = base / "input" / f"{who}_person"
    photos = copy_photos(who, folder)
    prompt = make_prompt(folder.name, who, quick)
    print(build_renderer.last_line(build_renderer.build()), flush=True)
    print(f"{len(photos)} photos in {folder.relative_to(ROOT)}; starting ComfyUI ...", flush=True)
    began = time.monotonic()
    with comfy.Server(base, output=output) as server:
        print(f"ready after {time.monotonic() - began:.0f} s; {WORKFLOW.relative_to(ROOT)}:", flush=True)
        result = server.run(prompt, Progress(prompt))
        if result.status != "success":
            node = prompt.get(result.error_node, {})
            raise comfy.ComfyError(
                f"{node.get('_meta', {}).get('title', 'the prompt')}: {result.error or result.status}\n"
                f"ComfyUI's log: {server.log}"
            )
        print_summary(prompt, result, server, time.monotonic() - began)
    print(f"\n{LICENSES[who]}")


def place_face_models(who: str, models: Path) -> None:
    """Give ComfyUI face models: MediaPipe's; for real photos a pack, which tells persons apart."""
    link(models / "my3dgen" / "faces", mediapipe_wheel.fetch_wheel(WHEEL).parent)
    pack = models / "insightface"
    if who == "real":
        link(pack, face_test_pack.make_pack(FACES).parents[1])
    elif pack.is_symlink():
        pack.unlink()


def link(place: Path, target: Path) -> None:
    """Make `place` a symbolic link to `target`, in place of whatever is there."""
    if place.is_symlink() or place.exists():
        place.unlink() if place.is_symlink() else shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target, target_is_directory=True)


def copy_photos(who: str, folder: Path) -> list[Path]:
    """Fill a folder under ComfyUI's input, as a user would."""
    if who == "demo":
        place = DEMO_PERSON
    else:
        place = face_test_pack.fetch_photos(FACES)
    sources = sorted(p for p in place.iterdir() if p.is_file())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return [Path(shutil.copy(source, folder)) for source in sources]


def make_prompt(folder: str, who: str, quick: bool) -> dict[str, Any]:
    """Return the shipped workflow with this folder; with real photos, other people are left out."""
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] == "My3DGenLoadPhotos":
            inputs["folder"] = folder
        if node["class_type"] == "My3DGenAlignFaces":
            inputs["drop_different"] = who == "real"
        if "filename_prefix" in inputs:
            inputs["filename_prefix"] = inputs["filename_prefix"].replace("/person", f"/{folder}")
    return comfy.shorten(prompt, steps=3, shared_steps=3, frames=4, rows=2) if quick else prompt


class Progress:
    """Print each stage when it begins, and its progress on a terminal."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self.prompt = prompt

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "executing" and data["node"] in self.prompt:
            title = self.prompt[data["node"]]["_meta"]["title"]
            print(f"\r  {title:<60}", end="\n" if not sys.stdout.isatty() else "", flush=True)
        elif kind == "progress" and sys.stdout.isatty():
            title = self.prompt[data["node"]]["_meta"]["title"]
            print(f"\r  {title}  {data['value']}/{data['max']:<20}", end="", flush=True)
        if kind == "executing" and data["node"] is None:
            print()


def print_summary(prompt: dict[str, Any], result: comfy.Result, server: comfy.Server, seconds: float) -> None:
    """Print the summary: photo report, metrics, sizes, times, files."""
    by_class = {node["class_type"]: name for name, node in prompt.items()}
    print(f"\nPhotos\n{result.text(by_class['My3DGenAlignFaces'])}")
    print("\nResult")
    for kind in ("My3DGenTrainIdentity", "My3DGenSaveIdentity", "My3DGenCompare"):
        print(f"  {result.text(by_class[kind])}")
    print("\nTime")
    for name, spent in result.seconds.items():
        if spent >= 0.5:
            print(f"  {spent:7.1f} s  {prompt[name]['_meta']['title']}")
    print(f"  {seconds:7.1f} s  in total, including the start of ComfyUI")
    print("\nFiles")
    for name in prompt:
        files = server.files(result, name)
        if len(files) > 2:
            print(f"  {len(files)} frames: {files[0]} ... {files[-1].name}")
        else:
            for file in files:
                print(f"  {file}")


if __name__ == "__main__":
    sys.exit(main())
