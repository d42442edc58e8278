"""Load a generator by its node and render, in a process that records every start of another one.

    python tests/run_without_processes.py auto|compiled|torch|control

Prints as JSON which renderer was chosen, the node's error, what was logged, and the starts of processes.
"control" starts one, to show that it would be seen. Libraries are looked for under HOME.
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

STARTS = ("subprocess.", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork", "pty.")
ROOT = Path(__file__).resolve().parent.parent
started: list[str] = []


def record(event: str, arguments: tuple) -> None:
    if event.startswith(STARTS):
        started.append(f"{event} {arguments!r}")


def render(renderer: str) -> dict:
    import conftest
    import torch

    from my3dgen_core import look_at

    node = conftest.load_pack().NODE_CLASS_MAPPINGS["My3DGenLoadGenerator"]()
    try:
        (model,) = node.load("starter", renderer=renderer)
    except ValueError as error:
        return {"error": str(error)}
    generator, camera = model.patcher.model, look_at(0.2, 0.1)
    ws = generator.w_avg.expand(1, generator.num_ws, -1)
    with torch.no_grad():
        exact, fast = (
            generator.render(ws, camera, neural_resolution=16, quality=quality)
            for quality in ("exact", "fast")
        )
    planes = generator.planes(ws).detach().requires_grad_()
    generator.march(planes, camera, 8).features.sum().backward()
    assert all(bool(t.isfinite().all()) for t in (exact.image, fast.image, planes.grad))
    return {"renderer": generator.renderer, "operators": hasattr(torch.ops.my3dgen, "render_rays")}


def main() -> None:
    sys.addaudithook(record)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    said: list[str] = []
    log = logging.getLogger("my3dgen")
    log.setLevel(logging.INFO)
    log.addHandler(logging.Handler())
    log.handlers[0].emit = lambda entry: said.append(entry.getMessage())
    if sys.argv[1] == "control":
        subprocess.run([sys.executable, "-c", ""], check=True)
        os.system("true")
        result = {}
    else:
        result = render(sys.argv[1])
    print(json.dumps({**result, "log": said, "started": started}))


if __name__ == "__main__":
    main()
