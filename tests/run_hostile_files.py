"""Opens every hostile file once, in a process of its own, and reports what happened as JSON.

Run by the security suite with CANARY in the environment and the folder of the files as its argument.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from my3dgen_core import CheckpointError, Identity, load_generator
from my3dgen_core.person.eg3d_dataset import read_latent

# What Python announces before it happens. Reading a file opens it; nothing else may.
FORBIDDEN = (
    "exec",
    "compile",
    "import",
    "marshal.loads",
    "code.__new__",
    "function.__new__",
    "pickle.find_class",
    "os.",
    "subprocess.",
    "shutil.",
    "socket.",
    "ctypes.",
    "tempfile.",
    "urllib.",
    "webbrowser.",
    "pty.",
    "cpython.run_",
)
seen: list[str] = []
watching = False


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not watching:
        return
    if event == "open":
        _, mode, flags = arguments
        if (mode and set(mode) & set("wax+")) or (type(flags) is int and flags & (os.O_WRONLY | os.O_RDWR)):
            seen.append(f"open {arguments[0]} for writing")
    elif event.startswith(FORBIDDEN):
        seen.append(f"{event} {arguments[:1]!r:.80}")


def peak() -> float:
    """Most memory this process has had so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(folder: Path) -> None:
    global watching
    warnings.simplefilter("ignore")
    before = peak()
    good = folder / "good.pkl"  # what torch and Python import late is imported by a good file
    load_generator(good)
    for odd in (folder / "00000", folder / "good.json"):
        for read in (load_generator, read_latent, Identity.load):
            with contextlib.suppress(CheckpointError):
                read(odd)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.addaudithook(watch)
    results = []
    for file in sorted(folder.glob("[0-9]*")):
        outcomes = []
        slowest = 0.0
        watching = True
        for read in (load_generator, read_latent, Identity.load):
            start = time.process_time()
            try:
                read(file)
                outcomes.append("accepted")
            except CheckpointError as error:
                outcomes.append(f"CheckpointError: {error}")
            except BaseException as error:  # the suite wants to know of any other
                outcomes.append(
                    f"{type(error).__name__}: {error:.100}" if str(error) else type(error).__name__
                )
            slowest = max(slowest, time.process_time() - start)
        watching = False
        results.append(
            {
                "file": file.name,
                "outcomes": outcomes,
                "seconds": slowest,
                "megabytes": peak() - before,
                "events": seen[:5],
            }
        )
        seen.clear()
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
