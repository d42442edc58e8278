"""Identities by the thousand: the store, lists on ComfyUI's page, and requests that alternate among people.

    python -m benchmarks.identities store [--count N]      # the store with N files
    python -m benchmarks.identities page                   # combos and the search field; needs chromium
    python -m benchmarks.identities people [--full]        # one person and sixteen, by the library
    python -m benchmarks.identities server                 # one person and sixteen, in a real ComfyUI

"store" makes links to four copies of the bundled identity, a thousand to a folder, so that every entry has
the size of a real one. Files are in the page cache. "page" adds nodes with combos of 100, 1,000 and 10,000
names to a ComfyUI beside Load Identity with as many files. "people" and "server" time both sides in turns;
the ratio is that of the medians. Every request has a camera of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.page import put
from my3dgen_core import load_generator, look_at, personalized, starter
from my3dgen_core.person.identity import Identity
from my3dgen_core.person.identity_store import IdentityStore

DEMO = Path(starter.__file__).parent / "demo_identity.safetensors"
PEOPLE = 16
SIZES = (100, 1000, 10_000)
GET, SEARCH, RATIO = 5.0, 300.0, 1.15
"""Limits: milliseconds of `get` and of a search on the page, and the ratio of sixteen people to one."""
COMBOS = """
class Combo:
    CATEGORY, FUNCTION, RETURN_TYPES = "benchmark", "run", ()
    def run(self, file):
        return ()


def combo(count):
    names = [f"person {number:06}.safetensors" for number in range(count)]
    inputs = classmethod(lambda cls: {"required": {"file": (names,)}})
    return type(f"Combo{count}", (Combo,), {"INPUT_TYPES": inputs})


NODE_CLASS_MAPPINGS = {f"Combo{count}": combo(count) for count in (100, 1000, 10000)}
"""
# Runs in the page: milliseconds to fetch and parse a node's definition, and to open the menu of its combo.
OPEN_COMBO = """async (kind) => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const began = performance.now();
  const text = await (await app.api.fetchApi(`/object_info/${kind}`)).text();
  const names = JSON.parse(text)[kind].input.required.file[0];
  const fetched = performance.now();
  const menu = new LiteGraph.ContextMenu(names, {scale: 1, event: new MouseEvent("click"), callback() {}});
  await frame();
  const opened = performance.now();
  menu.close();
  return {bytes: text.length, fetch: fetched - began, open: opened - fetched};
}"""
# Milliseconds from a word in the search field to its results on the page.
SEARCH_FIELD = """async (word) => {
  const node = app.graph.nodes[0];
  const field = node.widgets.find((one) => one.name === "identity_search").element.querySelector("input");
  const shown = () => document.getElementById(field.getAttribute("aria-controls"));
  field.focus();
  await new Promise((done) => setTimeout(done, 1500));
  field.value = word;
  const began = performance.now();
  field.dispatchEvent(new Event("input", {bubbles: true}));
  const names = () => [...(shown()?.querySelectorAll("[role=option]") ?? [])].map((one) => one.dataset.name);
  const there = () => names().length && names().every((name) => name.includes(word));
  while (!there()) await new Promise(requestAnimationFrame);
  const took = performance.now() - began;
  field.blur();
  return took;
}"""


def milliseconds(use: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    use()
    return (time.perf_counter() - start) * 1000


def fill(folder: Path, count: int) -> list[str]:
    """Make `count` files, a thousand to a subfolder, and return their names in the store."""
    copies = folder.parent / "copies"
    copies.mkdir(parents=True)
    names = [f"{number // 1000:03}/person {number:06}.safetensors" for number in range(count)]
    for number in range(4):  # a file has at most 65,000 links on ext4
        shutil.copy(DEMO, copies / str(number))
    for number, name in enumerate(names):
        if number % 1000 == 0:
            (folder / name).parent.mkdir(parents=True)
        os.link(copies / str(number % 4), folder / name)
    return names


def measure_store(count: int) -> str:
    """Return the table of the store's times."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "people")
        names = fill(folder, count)
        store = IdentityStore(folder, index=Path(place, "index.sqlite"))
        rows = [("first list of all names (`refresh`)", milliseconds(store.refresh))]
        rows.append(("base hashes and tags of all (`read_details`)", milliseconds(store.read_details)))
        some = names[:: max(1, count // 200)][:200]
        first = [milliseconds(partial(store.get, name)) for name in some]
        again = [milliseconds(partial(store.get, name)) for name in some]
        store.close()
        reopened = milliseconds(store.refresh)
        fresh = [milliseconds(partial(store.get, name)) for name in some]
        time.sleep(2.1)  # folders that have just changed are read again
        store.refresh()
        rows += [
            ("`get`, first read: hashed, loaded and recorded", statistics.median(first)),
            ("`get`, read again: compared with its hash, loaded", statistics.median(fresh)),
            ("the same, 99th of a hundred", sorted(fresh)[int(len(fresh) * 0.99)]),
            ("`get`, kept in memory", statistics.median(again)),
            ("the same, 99th of a hundred", sorted(again)[int(len(again) * 0.99)]),
            ("`refresh` in a new process with the index", reopened),
            ("`refresh`, nothing changed", milliseconds(store.refresh)),
            ("`search` of a word that one name has", milliseconds(lambda: store.search(names[-1][-18:-12]))),
            ("`search` of a word that all have, 50 results", milliseconds(lambda: store.search("person"))),
            ("`count` of them", milliseconds(lambda: store.count("person"))),
            ("`search` of a tag", milliseconds(lambda: store.search(tag="none"))),
        ]
        size = Path(place, "index.sqlite").stat().st_size
        store.close()
    lines = [f"| {count:,} identities | ms |", "|---|---|"]
    lines += [f"| {what} | {value:,.2f} |" for what, value in rows]
    slow = statistics.median(again) > GET
    return "\n".join(lines) + (
        f"\n\nThe index has {size / 1e6:.0f} MB. `get` of one kept in memory must take {GET:.0f} ms at most: "
        f"{'no' if slow else 'yes'}."
    )


def measure_page() -> str:
    """Return the table of combos and of the search field."""
    import comfy
    import page as comfy_page

    rows = []
    with comfy_page.open_browser() as browser:
        for count in SIZES:
            with tempfile.TemporaryDirectory() as place:
                base = comfy.make_base(Path(place, "base"))
                (base / "custom_nodes" / "combos.py").write_text(COMBOS)
                fill(base / "models" / "my3dgen" / "identities", count)
                with comfy.Server(base, environment={"OMP_NUM_THREADS": "1"}) as server:
                    first = milliseconds(lambda: server.get("/my3dgen/identities?query=person"))
                    words = [f"{count - 1 - n:06}" for n in range(20)]
                    asked = [
                        milliseconds(partial(server.get, f"/my3dgen/identities?query={word}"))
                        for word in words
                    ]
                    own = len(json.dumps(server.get("/object_info/My3DGenLoadIdentity")))
                    with comfy_page.open_page(server, browser) as page:
                        page.evaluate("(kind) => app.loadApiJson({1: kind}, 'x')", prompt_node())
                        combo = [page.evaluate(OPEN_COMBO, f"Combo{count}") for _ in range(5)]
                        field = [page.evaluate(SEARCH_FIELD, word) for word in words[:5]]
            rows.append(
                f"| {count:,} | {combo[0]['bytes'] / 1e3:.0f} kB | {median(combo, 'fetch'):.0f} | "
                f"{median(combo, 'open'):.0f} | {own / 1e3:.0f} kB | {first:.0f} | "
                f"{statistics.median(asked):.0f} | {statistics.median(field):.0f} |"
            )
            print(rows[-1], flush=True)
    return "\n".join(
        [
            "| files | combo: definition | fetched and read | menu opened | Load Identity: definition | "
            "route, first request | route | search field |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Times in ms; those of the search field, with its pause of 120 ms after a key, must stay below "
            f"{SEARCH:.0f}.",
        ]
    )


def prompt_node() -> dict[str, Any]:
    """Return a Load Identity of an API prompt."""
    return {"class_type": "My3DGenLoadIdentity", "inputs": {"file": "starter: demo person"}}


def median(rows: list[dict[str, float]], key: str) -> float:
    """Return the median of one value."""
    return statistics.median(row[key] for row in rows)


def measure_people(full: bool, rounds: int) -> str:
    """Return the seconds of one person's requests and of sixteen people's, by the library."""
    from benchmarks.people import generator, person
    from my3dgen_core import Latents

    model = generator(full)
    ws = model.w_avg.expand(1, model.num_ws, -1).clone()
    cameras = [look_at(0.3 - 0.04 * i, 0.1) for i in range(PEOPLE)]
    with tempfile.TemporaryDirectory() as place:
        store = IdentityStore(place)
        base_hash = model.base_hash()
        for i in range(PEOPLE):
            store.add(Identity(person(model, i), Latents(ws), base_hash), f"{i}")

        def requests(who: Callable[[int], int]) -> float:
            start = time.process_time()
            with torch.inference_mode():
                for i, camera in enumerate(cameras):
                    identity = store.get(f"{who(i)}.safetensors")
                    with personalized(model, identity):
                        model.render(ws, camera)
            return time.process_time() - start

        sides: dict[str, list[float]] = {"one": [], "sixteen": [], "merge": []}
        for turn in range(rounds + 1):
            for name, who in (("one", lambda _: 0), ("sixteen", lambda i: i)):
                seconds = requests(who)
                if turn:
                    sides[name].append(seconds)
        with torch.inference_mode():
            for i in range(PEOPLE):
                start = time.process_time()
                with personalized(model, store.get(f"{i}.safetensors")):
                    sides["merge"].append(time.process_time() - start)
        store.close()
    one, sixteen = statistics.median(sides["one"]), statistics.median(sides["sixteen"])
    kind = "of the size of ffhq512-128" if full else "the starter"
    share = statistics.median(sides["merge"]) * PEOPLE / one
    return (
        f"{PEOPLE} requests of one person take {one:.2f} processor seconds, of {PEOPLE} people in turns "
        f"{sixteen:.2f} ({sixteen / one:.2f}x; must: {RATIO}x), with {kind}. Merging weights is "
        f"{100 * share:.1f} % of it."
    )


def measure_server(rounds: int) -> str:
    """Return the seconds of a prompt of one person and of sixteen people in turns, in a real ComfyUI."""
    import comfy
    from prompts import camera, node

    from benchmarks.people import person

    with tempfile.TemporaryDirectory() as place:
        base = comfy.make_base(Path(place, "base"))
        folder = base / "models" / "my3dgen" / "identities"
        model, anchors = load_generator("starter"), Identity.load(DEMO).anchors
        for i in range(PEOPLE):
            Identity(person(model, i), anchors, model.base_hash()).save(folder / f"{i}.safetensors")
        yaw = 0

        def prompt(who: int) -> dict[str, Any]:
            nonlocal yaw
            yaw += 1
            render = {"which": "mean", "index": 0, "batch_size": 1}
            return {
                "load": node("LoadGenerator", file="starter"),
                "person": node("LoadIdentity", file=f"{who}.safetensors"),
                "apply": node("ApplyIdentity", model=["load", 0], identity=["person", 0], strength=1.0),
                "camera": camera(yaw * 0.05),
                "render": node(
                    "Render", model=["apply", 0], latents=["person", 1], cameras=["camera", 0], **render
                ),
                "save": {"class_type": "PreviewImage", "inputs": {"images": ["render", 0]}},
            }

        sides: dict[str, list[float]] = {"one": [], "sixteen": []}
        nodes: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
        with comfy.Server(base, environment={"OMP_NUM_THREADS": "1"}) as server:
            assert server.process is not None
            process = psutil.Process(server.process.pid)
            for turn in range(rounds + 1):
                for name, who in (("one", lambda _: 0), ("sixteen", lambda i: i)):
                    start = sum(process.cpu_times()[:2])
                    for i in range(PEOPLE):
                        result = server.run(prompt(who(i)))
                        if result.status != "success":
                            raise SystemExit(result.error)
                        for node_name, seconds in result.seconds.items():
                            nodes[name].setdefault(node_name, []).append(seconds)
                    if turn:
                        sides[name].append((sum(process.cpu_times()[:2]) - start) / PEOPLE)
    one, sixteen = statistics.median(sides["one"]), statistics.median(sides["sixteen"])
    parts = ", ".join(
        f"{name} {1000 * statistics.median(seconds):.1f}" for name, seconds in nodes["sixteen"].items()
    )
    return (
        f"In ComfyUI a prompt of one person takes {one:.3f} processor seconds, of {PEOPLE} people in turns "
        f"{sixteen:.3f} ({sixteen / one:.2f}x; must: {RATIO}x), with the starter. Its nodes take, in ms by "
        f"the clock: {parts}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("store", "page", "people", "server"))
    parser.add_argument("--count", type=int, default=100_000, help="files of the store")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="random weights of ffhq512-128's size")
    parser.add_argument("--page", type=Path, help="put the figures into this page, between their marks")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "store":
        found = measure_store(args.count)
    elif args.what == "page":
        found = measure_page()
    elif args.what == "people":
        found = measure_people(args.full, args.rounds)
    else:
        found = measure_server(args.rounds)
    print(found)
    if args.page:
        put(args.page, f"identities-{args.what}{'-full' * args.full}", found)


if __name__ == "__main__":
    main()
