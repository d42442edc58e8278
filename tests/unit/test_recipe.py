"""Recipes: which generator has which, and the settings that it gives."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import goldens
import pytest
from micro import CONFIG as MICRO

from my3dgen_core import (
    GeneratorConfig,
    InversionConfig,
    Latents,
    TuningConfig,
    load_generator,
    load_latents,
    recipe_of,
    save_latents,
)
from my3dgen_core.fitting.recipe import CARS, CATS, FFHQ, RECIPES, STARTER

OFFICIAL = goldens.values("full_ffhq512-128_config")


def official(**rendering: object) -> GeneratorConfig:
    """The configuration of an official checkpoint of faces, with other settings of its rendering."""
    return GeneratorConfig.from_official(
        OFFICIAL | {"rendering_kwargs": OFFICIAL["rendering_kwargs"] | rendering}
    )


def test_the_starter_has_its_recipe_which_is_the_defaults_of_the_core() -> None:
    recipe = recipe_of(load_generator("starter"))
    assert recipe is STARTER
    assert recipe.inversion(photos=24) == InversionConfig()
    assert recipe.training() == TuningConfig()


def test_nvidias_generators_are_known_by_the_cameras_of_their_data_sets() -> None:
    assert recipe_of(official()) is FFHQ
    module = "training.superresolution.SuperresolutionHybrid8X"
    cats = official(avg_camera_pivot=[0, 0, -0.06], superresolution_module=module)
    cars = official(avg_camera_pivot=[0, 0, 0], avg_camera_radius=1.7, white_back=True, box_warp=1.6)
    assert (recipe_of(cats), recipe_of(cars)) == (CATS, CARS)


def test_every_neural_resolution_of_the_family_has_the_recipe_of_faces() -> None:
    for neural in (64, 128):
        assert recipe_of(GeneratorConfig.from_official(OFFICIAL, neural)) is FFHQ
    assert recipe_of(goldens.tiny()) is FFHQ  # a small one of the same data


@pytest.mark.parametrize(("large", "white"), [(False, False), (False, True), (True, False), (True, True)])
def test_of_an_unknown_generator_size_decides_steps_and_a_white_background_that_there_is_no_wall(
    large: bool, white: bool
) -> None:
    config = dataclasses.replace(
        MICRO, channel_base=32768 if large else 4096, white_back=white, avg_camera_pivot=(0.0, 0.0, 0.1)
    )
    recipe, size = recipe_of(config), FFHQ if large else STARTER
    assert recipe not in RECIPES
    assert recipe.name == f"unknown {'large' if large else 'small'} generator"
    assert (recipe.training_steps, recipe.single_lr) == (size.training_steps, size.single_lr)
    backdrop = STARTER if white else FFHQ
    assert (recipe.cut_behind, recipe.refine) == (backdrop.cut_behind, backdrop.refine)
    assert recipe.background_weight == backdrop.background_weight


def test_exact_cameras_are_not_refined_and_their_backgrounds_count_in_full() -> None:
    photographs, renderings = FFHQ.training(), FFHQ.training(exact_cameras=True)
    assert (photographs.refine, photographs.background_weight) == (True, 0.1)
    assert (renderings.refine, renderings.background_weight) == (False, 1.0)
    assert FFHQ.inversion(8).refine_cameras
    assert not FFHQ.inversion(8, exact_cameras=True).refine_cameras


def test_a_single_photo_has_no_shared_steps_and_more_of_its_own() -> None:
    alone = STARTER.inversion(photos=1)
    assert (alone.shared_steps, alone.steps, alone.lr) == (0, 100, 0.03)
    assert FFHQ.own_steps(shared_steps=10) == (400, 0.02)
    assert FFHQ.own_steps(shared_steps=0) == (600, 0.02)


def test_a_rate_scales_all_rates() -> None:
    plain, slow = TuningConfig(), TuningConfig().with_rate(0.002)
    for name in ("lr", "affine_lr", "diff_lr", "full_lr"):
        assert getattr(slow, name) == pytest.approx(getattr(plain, name) / 5)
    assert plain.with_rate(plain.lr) == plain  # to the bit: fingerprints of trainings hold the rates


def test_latents_keep_where_their_cameras_come_from(tmp_path: Path) -> None:
    generator = goldens.tiny()
    ws = generator.w_avg.expand(2, generator.num_ws, -1).clone()
    for source in ("exact", "estimated", None):
        latents = Latents(ws, camera_source=source)
        save_latents(latents, tmp_path / "latents.safetensors")
        assert load_latents(tmp_path / "latents.safetensors").camera_source == source
        assert latents.to("cpu").camera_source == source


def table() -> str:
    """The recipes as they stand in docs/checkpoints.md."""
    rows: dict[str, list[str]] = {
        "*Invert Photos*: shared steps, then each photo's": [
            f"{r.shared_steps}, {r.inversion_steps}" for r in RECIPES
        ],
        "its learning rate": [f"{r.inversion_lr:g}" for r in RECIPES],
        "a single photo: steps, learning rate": [f"{r.single_steps}, {r.single_lr:g}" for r in RECIPES],
        "*Train Identity*: steps, learning rate": [f"{r.training_steps}, {r.training_lr:g}" for r in RECIPES],
        "*Pivotal Tuning*: steps, learning rate": [f"{r.pivotal_steps}, {r.pivotal_lr:g}" for r in RECIPES],
        "estimated cameras: refined": ["yes" if r.refine else "no" for r in RECIPES],
        "estimated cameras: background weight": [f"{r.background_weight:g}" for r in RECIPES],
        "cut behind": ["no" if r.cut_behind is None else f"{r.cut_behind:g}" for r in RECIPES],
    }
    head = ["", *(r.name for r in RECIPES)]
    lines = [head, ["---"] * len(head), *([name, *values] for name, values in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def test_the_table_of_the_documentation_is_that_of_the_code(root: Path) -> None:
    page = (root / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    assert page.partition("<!-- recipes -->\n")[2].partition("\n<!-- /recipes -->")[0] == table()


def test_every_recipe_has_a_name_of_its_own_and_settings_that_the_core_takes() -> None:
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES)
    for recipe in RECIPES:
        for exact in (False, True):
            json.dumps(dataclasses.asdict(recipe.inversion(10, exact)))
            assert recipe.training(exact).steps == recipe.training_steps
        assert recipe.pivotal_tuning().steps == recipe.pivotal_steps
