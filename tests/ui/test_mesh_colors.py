"""Colors of a mesh in viewers: three.js, and core's Preview3D, show what our own rasterization shows."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import comfy
import numpy as np
import page as comfy_page
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from my3dgen_core import extract_mesh, load_generator, look_at, mean_latent, save_glb, texture_mesh
from my3dgen_core.mesh import rasterize, render_mesh
from my3dgen_core.mesh.rasterization import shade

pytestmark = pytest.mark.skipif(
    comfy_page.browser_path() is None, reason="no chromium: apt-get install chromium, or set CHROMIUM"
)
pytest.importorskip("trimesh")
THREE = comfy.ROOT / "tools" / "js" / "node_modules" / "three"
SIZE = 256
KINDS = ("colors", "texture")
# WebGL without a GPU.
SOFTWARE = (
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)
VIEWER = """<!doctype html><script type="importmap">{"imports": {
  "three": "/three/build/three.module.js", "three/addons/": "/three/examples/jsm/"}}</script>
<script type="module">
import {DirectionalLight, PerspectiveCamera, Scene, WebGLRenderer} from "three";
import {GLTFLoader} from "three/addons/loaders/GLTFLoader.js";
window.show = async (name, size, fov, distance) => {
  const renderer = new WebGLRenderer({preserveDrawingBuffer: true});
  renderer.setSize(size, size);
  const scene = new Scene(), camera = new PerspectiveCamera(fov, 1, 0.1, 10);
  camera.position.set(0, 0, distance);
  scene.add(new DirectionalLight(0xff0000, 3));
  scene.add((await new GLTFLoader().loadAsync(name)).scene);
  renderer.render(scene, camera);
  return renderer.domElement.toDataURL("image/png");
};
</script>"""
# Looks over the viewer's shoulder: after a frame with the mesh, its pixels and the matrix that placed it.
WATCH = """
window.__THREE_DEVTOOLS__ = new EventTarget();
window.__THREE_DEVTOOLS__.addEventListener("observe", ({detail: renderer}) => {
  if (!renderer.domElement) return;
  const render = renderer.render;
  renderer.render = function (scene, camera) {
    render.call(renderer, scene, camera);
    let mesh = null;
    scene.traverse?.((part) => {
      if (part.isMesh && part.geometry.attributes.position?.count > 1000) mesh = part;
    });
    if (!mesh || !window.watched || renderer.getRenderTarget()) return;
    const gl = renderer.getContext(), [x, y, width, height] = gl.getParameter(gl.VIEWPORT);
    const pixels = new Uint8Array(4 * width * height);
    gl.readPixels(x, y, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    const place = camera.projectionMatrix.clone();
    place.multiply(camera.matrixWorldInverse).multiply(mesh.matrixWorld);
    window.watched({width, height, pixels: Array.from(pixels), place: place.elements});
    window.watched = null;
  };
});
"""
WATCHED = "() => setTimeout(() => { window.watched = (seen) => { window.seen = seen; }; }, 2000)"


@pytest.fixture(scope="module")
def software(browser: Any) -> Iterator[Any]:
    """A browser that draws WebGL on the CPU, beside the one of the other tests."""
    opened = browser.browser_type.launch(
        executable_path=comfy_page.browser_path(), args=[*comfy_page.ARGUMENTS, *SOFTWARE]
    )
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def heads() -> dict[str, Any]:
    """The starter's mean head, with vertex colors and with a texture."""
    pytest.importorskip("xatlas")
    starter = load_generator()
    ws = mean_latent(starter).ws
    plain = extract_mesh(starter, ws, 64)
    return dict(zip(KINDS, (plain, texture_mesh(starter, ws, plain, 512)), strict=True))


def interior(covered: torch.Tensor) -> torch.Tensor:
    """Pixels at least three away from the silhouette, bool [H, W]."""
    return F.max_pool2d((~covered).float()[None, None], 7, 1, 3)[0, 0] == 0


def gray_levels(shown: np.ndarray, ours: torch.Tensor, covered: torch.Tensor) -> float:
    """Mean difference over interior pixels, of 255; `shown` is [H, W, 3] in 0..255."""
    inside = interior(covered)
    assert inside.sum() > 2000
    expected = ((ours + 1) * 127.5).permute(1, 2, 0).numpy()
    return float(np.abs(shown.astype(np.float32) - expected)[inside.numpy()].mean())


@pytest.mark.parametrize("kind", KINDS)
def test_three_shows_the_colors_that_were_rendered(
    software: Any, heads: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    if not THREE.is_dir():
        pytest.skip("three.js is not installed: npm --prefix tools/js ci")
    save_glb(heads[kind], tmp_path / "head.glb")

    def serve(route: Any) -> None:
        name = route.request.url.removeprefix("http://three.test/")
        if name == "":
            route.fulfill(body=VIEWER, content_type="text/html")
        elif name == "head.glb":
            route.fulfill(body=(tmp_path / name).read_bytes(), content_type="model/gltf-binary")
        else:
            file = THREE / name.removeprefix("three/")
            route.fulfill(body=file.read_bytes(), content_type="text/javascript")

    page = software.new_page()
    try:
        page.route("http://three.test/**", serve)
        page.goto("http://three.test/")
        page.wait_for_function("() => Boolean(window.show)")
        fov = 2 * math.degrees(math.atan(0.5 / 4.2647))
        url = page.evaluate("(given) => window.show(...given)", ["/head.glb", SIZE, fov, 2.7])
    finally:
        page.close()
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB"))
    ours, covered = render_mesh(heads[kind], look_at(0.0, 0.0), SIZE)
    difference = gray_levels(shown, ours, covered)
    print(f"three.js, {kind}: {difference:.3f} of 255")
    assert difference <= 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frontend", ["installed", comfy.FRONTEND])
def test_cores_preview_shows_the_colors_that_were_rendered(
    server: comfy.Server,
    newer: Future[comfy.Server],
    software: Any,
    heads: dict[str, Any],
    frontend: str,
    kind: str,
) -> None:
    its = server if frontend == "installed" else newer.result()
    save_glb(heads[kind], its.output / f"{kind}.glb")
    its.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": False})
    inputs = {"model_file": f"{kind}.glb", "image": ""}
    prompt = {"1": {"class_type": "Preview3D", "inputs": inputs, "_meta": {"title": "head"}}}
    # The tests' server runs with --disable-api-nodes, under which core forbids its page to open blob:
    # addresses, where three.js puts the textures of every .glb.
    page = software.new_page(viewport={"width": 1200, "height": 900}, bypass_csp=True)
    try:
        page.add_init_script(WATCH)
        page.goto(f"http://{its.address}", wait_until="domcontentloaded", timeout=120_000)
        page.wait_for_function(comfy_page.READY, timeout=120_000)
        page.evaluate(
            "async (prompt) => { await app.loadApiJson(JSON.parse(prompt), 'mesh'); "
            "app.graph._nodes[0].size = [420, 480]; app.canvas.ds.scale = 1; "
            "app.canvas.ds.offset = [200, 200]; app.canvas.setDirty(true, true); }",
            json.dumps(prompt),
        )
        assert page.evaluate(comfy_page.RUN) == ""
        page.evaluate(WATCHED)
        for step in range(600):  # it draws only under the mouse
            page.mouse.move(410 + step % 2, 480)
            page.wait_for_timeout(100)
            if seen := page.evaluate("() => window.seen"):
                break
        else:
            pytest.fail("the viewer drew no mesh within a minute")
    finally:
        page.close()
    height, width = seen["height"], seen["width"]
    shown = np.array(seen["pixels"], np.uint8).reshape(height, width, 4)[::-1, :, :3]
    mesh = heads[kind]
    place = torch.tensor(seen["place"], dtype=torch.float32).view(4, 4).T
    points = torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32)
    clip = F.pad(points, (0, 1), value=1.0) @ place.T
    column, row = (clip[:, 0] / clip[:, 3] + 1) / 2 * width, (1 - clip[:, 1] / clip[:, 3]) / 2 * height
    faces = torch.tensor(np.asarray(mesh.faces))
    fragments = rasterize(torch.stack((column, row, clip[:, 3]), dim=1), faces, height, width)
    difference = gray_levels(shown, shade(mesh, fragments, faces), fragments.covered)
    print(f"Preview3D, frontend {frontend}, {kind}: {difference:.3f} of 255")
    assert difference <= 2
