"""Settings that suit a generator: how long to fit, at which rates, and what its training pictures imply."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..eg3d import Generator, GeneratorConfig
from .inversion import InversionConfig
from .tuning_config import TuningConfig


@dataclass(frozen=True)
class Recipe:
    """Settings that suit one kind of generator.

    Example:
        recipe = recipe_of(generator)
        anchors = invert(generator, images, cameras, recipe.inversion(len(images)))
        person = personalize(generator, images, anchors, recipe.training())
    """

    name: str
    """Kind of generator, for messages: "starter", "FFHQ", ..."""
    inversion_steps: int
    """Steps of each photo's own latent after the shared ones."""
    shared_steps: int
    """Steps spent first on one latent for all photos of a person."""
    inversion_lr: float
    """Learning rate of both."""
    single_steps: int
    """Steps of a photo's latent without shared ones before."""
    single_lr: float
    """Learning rate of those."""
    training_steps: int
    """Steps of `personalize`."""
    training_lr: float
    """Learning rate of `personalize` (`TuningConfig.lr`)."""
    pivotal_steps: int
    """Steps of `pivotal_tune`."""
    pivotal_lr: float
    """Learning rate of `pivotal_tune`."""
    refine: bool
    """Refine cameras that were estimated, in inversion and training. Exact ones never are."""
    background_weight: float
    """Loss weight of the background with estimated cameras, that is, of photographs. With exact ones, those
    of renderings, it is 1."""
    cut_behind: float | None
    """z in world units behind which everything is background: a wall that the generator puts behind heads.
    None: there is no wall."""

    def refines(self, exact_cameras: bool) -> bool:
        """Return whether cameras are refined, by whether they are exact."""
        return self.refine and not exact_cameras

    def weight_of_background(self, exact_cameras: bool) -> float:
        """Return the loss weight of the background, by whether the cameras are exact."""
        return 1.0 if exact_cameras else self.background_weight

    def shared_steps_for(self, photos: int) -> int:
        """Return the shared steps for a number of photos of one person: none for a single photo."""
        return self.shared_steps if photos > 1 else 0

    def own_steps(self, shared_steps: int) -> tuple[int, float]:
        """Return the steps of each photo's own latent and the learning rate, after so many shared steps."""
        if shared_steps > 0:
            return self.inversion_steps, self.inversion_lr
        return self.single_steps, self.single_lr

    def inversion(self, photos: int, exact_cameras: bool = False) -> InversionConfig:
        """Return settings of `invert`.

        Args:
            photos: number of photos, of one person.
            exact_cameras: whether the cameras are exact, as those of renderings, and not estimated.
        """
        shared = self.shared_steps_for(photos)
        steps, rate = self.own_steps(shared)
        refine = self.refines(exact_cameras)
        return InversionConfig(steps=steps, shared_steps=shared, lr=rate, refine_cameras=refine)

    def training(self, exact_cameras: bool = False) -> TuningConfig:
        """Return settings of `personalize`.

        Args:
            exact_cameras: whether the cameras are exact, as those of renderings, and not estimated.
        """
        return replace(
            TuningConfig().with_rate(self.training_lr),
            steps=self.training_steps,
            refine=self.refines(exact_cameras),
            background_weight=self.weight_of_background(exact_cameras),
        )

    def pivotal_tuning(self) -> TuningConfig:
        """Return settings of `pivotal_tune`."""
        return replace(TuningConfig().with_rate(self.pivotal_lr), steps=self.pivotal_steps)


STARTER = Recipe(
    name="starter",
    inversion_steps=25,
    shared_steps=60,
    inversion_lr=0.05,
    single_steps=100,
    single_lr=0.03,
    training_steps=400,
    training_lr=0.01,
    pivotal_steps=100,
    pivotal_lr=0.002,
    refine=False,
    background_weight=1.0,
    cut_behind=None,
)
"""For the bundled starter: small, trained on heads before white."""
FFHQ = Recipe(
    name="FFHQ",
    inversion_steps=400,
    shared_steps=100,
    inversion_lr=0.02,
    single_steps=600,
    single_lr=0.02,
    training_steps=3000,
    training_lr=0.01,
    pivotal_steps=400,
    pivotal_lr=0.01,
    refine=True,
    background_weight=0.1,
    cut_behind=-0.25,
)
"""For NVIDIA's generators of faces: large, trained on photographs, with a wall behind the head."""
CATS = replace(FFHQ, name="AFHQ cats")
"""For NVIDIA's afhqcats512-128: as for faces."""
CARS = replace(FFHQ, name="ShapeNet cars", refine=False, background_weight=1.0, cut_behind=None)
"""For NVIDIA's shapenetcars128-64: as large, but trained on renderings before white with exact cameras."""
RECIPES = (STARTER, FFHQ, CATS, CARS)
"""Recipes of known generators."""
_STARTER_SIZES = {"z_dim": 64, "w_dim": 128, "img_resolution": 128, "channel_base": 8192, "white_back": True}
_LARGE = 16384
"""Least `channel_base` of a large generator; NVIDIA's have 32768."""


def recipe_of(generator: Generator | GeneratorConfig) -> Recipe:
    """Return the recipe of a generator, found by its configuration.

    The starter is known by its sizes. EG3D's data sets are known by the setting of their cameras: FFHQ's look
    at z = 0.2 from 2.7, AFHQ's at z = -0.06, and ShapeNet's at the origin from 1.7, before white. So
    fine-tunes of a known generator have its recipe. Of others, the size decides steps and rates, and a white
    background that there is no wall and nothing to refine.

    Args:
        generator: the generator, or its configuration.
    """
    config = generator if isinstance(generator, GeneratorConfig) else generator.config
    if all(getattr(config, name) == value for name, value in _STARTER_SIZES.items()):
        return STARTER
    distant = abs(config.avg_camera_radius - 2.7) < 0.05
    height = config.avg_camera_pivot[2]
    if distant and not config.white_back and abs(height - 0.2) < 0.01:
        return FFHQ
    if distant and not config.white_back and abs(height + 0.06) < 0.01:
        return CATS
    if abs(config.avg_camera_radius - 1.7) < 0.05 and config.white_back:
        return CARS
    large = config.channel_base >= _LARGE
    backdrop = STARTER if config.white_back else FFHQ
    return replace(
        FFHQ if large else STARTER,
        name=f"unknown {'large' if large else 'small'} generator",
        refine=backdrop.refine,
        background_weight=backdrop.background_weight,
        cut_behind=backdrop.cut_behind,
    )
