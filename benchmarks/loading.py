"""Time and memory of loading a generator of full size from each kind of file, in a process of its own each.

    python -m benchmarks.loading [--json FILE] [--rounds N]

The files have the size of ffhq512-128, 30.7 million parameters with random weights: a .safetensors file of
this pack, an official pickle, torch.save's two formats, and a fine-tune with copies of its base in its init
arguments. Times are warm: the file is in the page cache, torch is imported. Memory is the peak above the
imports, mapped pages of the file included; the JSON lists those separately.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import ROOT

LIMITS = {"safetensors": (1.5, 1.3), "official pickle": (10.0, 1.3)}
"""Largest seconds, and largest ratio of memory to the size of the file."""

CHILD = """
import json, resource, sys, time
import my3dgen_core, torch
def status(name):
    for line in open("/proc/self/status"):
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
before, mapped = status("VmHWM"), status("RssFile")
start, used = time.perf_counter(), time.process_time()
generator = my3dgen_core.load_generator(sys.argv[1])
seconds, processor = time.perf_counter() - start, time.process_time() - used
print(json.dumps({
    "seconds": seconds, "processor_seconds": processor, "peak_bytes": status("VmHWM") - before,
    "anonymous_bytes": status("RssAnon"), "mapped_bytes": status("RssFile") - mapped,
    "parameters": sum(p.numel() for p in generator.parameters()),
}))
"""


def make(folder: Path) -> dict[str, Path]:
    """Write the files, and return them by kind."""
    import goldens
    import official_files as files
    import torch

    from my3dgen_core import save_generator

    settings = goldens.values("full_ffhq512-128_config")
    settings["neural_rendering_resolution"] = 128
    generator = goldens.full()
    state = generator.state_dict()
    made = {name: folder / name.replace(" ", "_") for name in (*LIMITS, "zip", "legacy", "fine-tune")}
    save_generator(generator, made["safetensors"])
    made["official pickle"].write_bytes(files.Writer(4).dump({"G_ema": files.official(state, settings)}))
    made["zip"].write_bytes(files.zip_file(files.official(state, settings)))
    made["legacy"].write_bytes(files.legacy_file(files.official(state, settings)))
    lora: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        adapted = key.startswith(("backbone.synthesis.", "superresolution."))
        if adapted and key.endswith(".weight"):
            name = files.wrapped_name(key.removesuffix("weight") + "lora_A").removesuffix("lora_A")
            rows = value.shape[-1] if value.ndim == 4 else 1
            lora[name + "lora_A"] = torch.ones(rows, value[0].numel())
            lora[name + "lora_B"] = torch.zeros(value.shape[0], rows)
    tuned = files.snapshot(state, lora, settings, state, {"r": 1, "lora_alpha": 1, "scaling": 1.0})
    made["fine-tune"].write_bytes(files.Writer(4).dump({"G": tuned, "G_ema": tuned}))
    return made


def measure(path: Path) -> dict[str, Any]:
    """Load a file once in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])},
        capture_output=True,
        text=True,
        check=True,
    )
    return {**json.loads(done.stdout), "file_bytes": path.stat().st_size}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=3, help="loads per file; the fastest is reported")
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in make(Path(folder)).items():
            rounds = [measure(path) for _ in range(args.rounds)]
            results[name] = min(rounds, key=lambda one: one["seconds"])
    good = True
    print("| file | MB | seconds | processor s | peak above imports, MB | of the file |")
    print("|---|---|---|---|---|---|")
    for name, one in results.items():
        ratio = one["peak_bytes"] / one["file_bytes"]
        size, peak = one["file_bytes"] / 1e6, one["peak_bytes"] / 1e6
        times = f"{one['seconds']:.2f} | {one['processor_seconds']:.2f}"
        print(f"| {name} | {size:.0f} | {times} | {peak:.0f} | {ratio:.2f} |")
        seconds, memory = LIMITS.get(name, (10.0, 1.3))
        good = good and one["seconds"] < seconds and ratio < memory
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    print("within the limits" if good else "NOT within the limits")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
