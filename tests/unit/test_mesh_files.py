"""Files of meshes: the colors that a reader of each format shows are those that were rendered."""

import numpy as np
import pytest
from glb_files import GlbFile
from PIL import Image

from my3dgen_core import save_glb
from my3dgen_core.mesh import srgb_to_linear

trimesh = pytest.importorskip("trimesh")

COLORS = np.array([[255, 0, 10, 255], [128, 128, 128, 255], [30, 200, 90, 255], [0, 255, 255, 255]], np.uint8)


def colored():
    mesh = trimesh.creation.icosahedron()
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=COLORS[np.arange(len(mesh.vertices)) % 4])
    return mesh


def textured():
    mesh = colored()
    uv = np.linspace(0.1, 0.9, 2 * len(mesh.vertices)).reshape(-1, 2)
    picture = Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return mesh, uv, picture


def test_gltf_has_linear_vertex_colors_and_an_unlit_material_that_is_no_metal(tmp_path):
    mesh = colored()
    save_glb(mesh, tmp_path / "head.glb")
    stored = GlbFile(tmp_path / "head.glb")
    assert stored.accessor(stored.primitive["attributes"]["COLOR_0"]).dtype == np.uint16
    found = stored.attribute("COLOR_0")
    shown = np.asarray(mesh.visual.vertex_colors) / 255
    assert np.abs(found[:, 3] - 1).max() == 0
    assert np.abs(found[:, :3] - srgb_to_linear(shown[:, :3])).max() < 1e-4
    assert np.abs(found[:, :3] - shown[:, :3]).max() > 0.2  # gray is .216 and not .502
    assert stored.material["pbrMetallicRoughness"] == {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    assert "KHR_materials_unlit" in stored.material["extensions"]
    assert stored.document["extensionsUsed"] == ["KHR_materials_unlit"]


def test_gltf_has_the_same_surface_with_its_normals(tmp_path):
    mesh = colored()
    save_glb(mesh, tmp_path / "head.glb")
    stored = GlbFile(tmp_path / "head.glb")
    assert np.allclose(stored.attribute("POSITION"), mesh.vertices)
    assert np.allclose(stored.attribute("NORMAL"), mesh.vertex_normals, atol=1e-6)
    assert np.array_equal(stored.faces, mesh.faces)
    bounds = stored.document["accessors"][stored.primitive["attributes"]["POSITION"]]
    assert np.allclose((bounds["min"], bounds["max"]), mesh.bounds)
    assert all(view["byteOffset"] % 4 == 0 for view in stored.document["bufferViews"])
    (again,) = trimesh.load(tmp_path / "head.glb").geometry.values()
    assert len(again.faces) == len(mesh.faces)


def test_gltf_has_a_texture_as_it_is_counted_from_its_upper_edge_and_no_vertex_colors(tmp_path):
    mesh, uv, picture = textured()
    save_glb(mesh, tmp_path / "head.glb")
    stored = GlbFile(tmp_path / "head.glb")
    assert "COLOR_0" not in stored.primitive["attributes"]  # it would multiply the texture
    found = stored.attribute("TEXCOORD_0")
    assert np.allclose(found, np.column_stack((uv[:, 0], 1 - uv[:, 1])))
    assert stored.material["pbrMetallicRoughness"]["baseColorTexture"] == {"index": 0}
    assert "KHR_materials_unlit" in stored.material["extensions"]
    assert np.array_equal(stored.texture(), np.asarray(picture))
    (again,) = trimesh.load(tmp_path / "head.glb").geometry.values()
    assert np.allclose(again.visual.uv, uv)


@pytest.mark.parametrize("extension", ["ply", "obj"])
def test_ply_and_obj_keep_display_values_as_their_readers_expect(tmp_path, extension):
    mesh = colored()
    mesh.export(tmp_path / f"head.{extension}")
    again = trimesh.load(tmp_path / f"head.{extension}", process=False)
    assert np.array_equal(np.asarray(again.visual.vertex_colors), np.asarray(mesh.visual.vertex_colors))


def test_an_obj_names_its_texture_and_does_not_darken_it(tmp_path):
    mesh, _, picture = textured()
    mesh.visual.material.baseColorFactor = [255, 255, 255, 255]
    mesh.export(tmp_path / "head.obj")
    lines = (tmp_path / "material.mtl").read_text().splitlines()
    (name,) = (line.split()[1] for line in lines if line.startswith("map_Kd"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / name)), np.asarray(picture))
    (factor,) = ([float(part) for part in line.split()[1:]] for line in lines if line.startswith("Kd"))
    assert factor == [1.0, 1.0, 1.0]
