"""Make the thumbnails of the workflow templates by running the workflows in a real ComfyUI.

    python tools/thumbnails.py             # workflows/NAME.jpg for every NAME, a few minutes on a CPU
    python tools/thumbnails.py NAME ...    # only these

Only the nodes that lead to the picture run, so that no model of the user is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import comfy
import face_test_pack
from PIL import Image

WORKFLOWS = comfy.ROOT / "workflows"
WIDTH, PAPER = 512, (255, 255, 255)
# title of the node, output, number of pictures, number of columns
SOURCES: dict[str, tuple[str, int, int, int]] = {
    "alpha_space": ("Every Look from Every Side", 0, 18, 3),
    "camera_path_mesh": ("Render the Orbit", 3, 8, 4),
    "chain_controlnet": ("Normals in 512", 0, 1, 1),
    "chain_upscale": ("Render the Orbit", 0, 8, 4),
    "demo_person": ("Compare with Photos", 0, 1, 1),
    "direction_sweep": ("Render the Sweep", 0, 8, 4),
    "find_direction": ("Render the Sweep", 0, 8, 4),
    "figures": ("Alpha Samples", 0, 1, 1),
    "inpainting": ("Fill in", 0, 3, 3),
    "interpolation": ("Render the Transition", 0, 8, 4),
    "new_photo": ("Render the Orbit", 0, 8, 4),
    "personalize": ("Compare with Photos", 0, 1, 1),
    "repose": ("Paste Back", 0, 1, 1),
    "two_persons": ("From One to the Other", 0, 8, 4),
}
MORE: dict[str, list[tuple[str, int]]] = {
    "chain_controlnet": [("The Picture in 512", 0), ("Depth in 512", 0)],
    "inpainting": [("Masked Photos", 0)],
    "repose": [("The Photo", 0)],
}
"""Further outputs, shown before the one in SOURCES."""


def part(prompt: dict[str, Any], outputs: list[tuple[str, int]]) -> tuple[dict[str, Any], list[str]]:
    """Return the part of the prompt that saves these outputs (by node title), and the saving nodes' names."""
    saved: list[str] = []
    needed: set[str] = set()
    kept = {}
    for title, slot in outputs:
        makes = [name for name, node in prompt.items() if node["_meta"]["title"] == title]
        node = next(name for name in makes if prompt[name]["class_type"] not in ("PreviewImage", "SaveImage"))
        needed |= comfy.upstream(prompt, [node])
        saved.append(f"thumbnail{len(saved)}")
        inputs = {"images": [node, slot], "filename_prefix": f"thumbnails/{saved[-1]}"}
        kept[saved[-1]] = {"class_type": "SaveImage", "inputs": inputs, "_meta": {"title": ""}}
    return {name: prompt[name] for name in prompt if name in needed} | kept, saved


def sheet(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Arrange the pictures in a grid, WIDTH wide."""
    width = WIDTH // columns
    shrunk = [
        p.resize((width, round(p.height * width / p.width)), Image.Resampling.LANCZOS) for p in pictures
    ]
    rows = [shrunk[i : i + columns] for i in range(0, len(shrunk), columns)]
    heights = [max(p.height for p in row) for row in rows]
    canvas = Image.new("RGB", (WIDTH, sum(heights)), PAPER)
    for number, row in enumerate(rows):
        for place, picture in enumerate(row):
            canvas.paste(picture, (place * width, sum(heights[:number])))
    return canvas


def spread(files: list[Path], count: int) -> list[Path]:
    """Return `count` evenly spaced files."""
    count = min(count, len(files))
    return [files[round(i * (len(files) - 1) / max(1, count - 1))] for i in range(count)]


def make(server: comfy.Server, name: str) -> None:
    """Make the thumbnail of one workflow."""
    title, slot, count, columns = SOURCES[name]
    prompt = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))
    outputs = [*MORE.get(name, []), (title, slot)]
    running, saved = part(prompt, outputs)
    result = server.run(running)
    if result.status != "success":
        raise comfy.ComfyError(f"{name}: {result.error or result.status}; ComfyUI's log: {server.log}")
    files = [file for node in saved for file in spread(server.files(result, node), count)]
    if count == 1:
        columns = len(files)
    pictures = [Image.open(file).convert("RGB") for file in files]
    sheet(pictures, columns).save(WORKFLOWS / f"{name}.jpg", quality=85, optimize=True)
    print(f"{WORKFLOWS / name}.jpg: {sum(result.seconds.values()):.0f} s", flush=True)


def main() -> int:
    names = sorted(SOURCES)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; all by default")
    wanted = parser.parse_args().names or names
    if unknown := [name for name in wanted if name not in names]:
        parser.error(f"{unknown[0]} has no thumbnail: add it to SOURCES.")
    try:
        with tempfile.TemporaryDirectory() as folder:
            base = comfy.make_base(Path(folder))
            faces = face_test_pack.make_pack(comfy.ROOT / "build" / "face")
            (base / "models" / "insightface").symlink_to(faces.parents[1])
            with comfy.Server(base) as server:
                for name in wanted:
                    make(server, name)
    except (comfy.ComfyError, OSError) as error:
        print(f"No thumbnail: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
