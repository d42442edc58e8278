"""Configuration of a generator: network sizes and rendering settings in one frozen dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..camera import FOCAL, OBJECT_FOCAL, OBJECT_RADIUS, RADIUS, ViewRange, look_at

SUPERRESOLUTION = ("8XDC", "8X", "4X", "2X")
"""Known super-resolution architectures (values of `GeneratorConfig.superresolution`)."""
PLANE_CHANNELS = 32
"""Feature channels of each of the three planes."""


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes and rendering settings of an EG3D generator; the defaults are NVIDIA's ffhq512-128.

    Warning:
        All field names and values are hashed by `Generator.base_hash`. Identities, latents and directions
        store that hash to name their generator. Renaming, adding or removing a field, or writing a value in
        another way in `to_dict`, changes the hash of every generator: every saved identity is then refused.
    """

    z_dim: int = 512
    """Length of the noise vector z."""
    c_dim: int = 25
    """Length of a camera label: the camera-to-world matrix (16) and the intrinsics (9)."""
    w_dim: int = 512
    """Length of one latent vector w."""
    mapping_layers: int = 2
    """Fully-connected layers of the mapping network."""
    img_resolution: int = 512
    """Pixels along an edge of the final image."""
    plane_resolution: int = 256
    """Texels along an edge of a plane; a power of two >= 8."""
    channel_base: int = 32768
    """Channels of the backbone at resolution r are min(channel_base // r, channel_max)."""
    channel_max: int = 512
    """Maximum number of channels of the backbone at any resolution."""
    conv_clamp: float | None = None
    """Clamp of the backbone's activations; None: not clamped."""
    superresolution: str = "8XDC"
    """Architecture of the super-resolution: "8XDC", "8X", "4X" or "2X"."""
    sr_antialias: bool = True
    """Antialiased resizing of features to the input resolution of the super-resolution."""
    sr_num_fp16_res: int = 4
    """> 0: super-resolution in half precision where the device has it, clamped at 256 on every device."""
    sr_noise_mode: str = "none"
    """Noise inputs of the super-resolution: "none", "const" or "random"."""
    neural_resolution: int = 128
    """Pixels along an edge of the volume-rendered image (EG3D: neural_rendering_resolution)."""
    depth_resolution: int = 48
    """Coarse samples per ray."""
    depth_resolution_importance: int = 48
    """Fine samples per ray, placed by importance sampling; 0: no second pass."""
    ray_start: float | str = 2.25
    """Depth of the nearest coarse sample in world units, or "auto": where the ray enters the box."""
    ray_end: float | str = 3.3
    """Depth of the farthest coarse sample in world units, or "auto": where the ray leaves the box."""
    box_warp: float = 1.0
    """Side of the cube that the planes cover, in world units, centered on the origin."""
    disparity_space_sampling: bool = False
    """Coarse samples are evenly spaced in inverse depth instead of depth."""
    white_back: bool = False
    """White background instead of black."""
    decoder_lr_mul: float = 1.0
    """Learning-rate multiplier of the decoder: its stored weights are scaled by it at run time."""
    c_scale: float = 1.0
    """Factor of the camera label that the mapping network is conditioned on."""
    c_gen_conditioning_zero: bool = False
    """The mapping network is conditioned on zeros instead of the camera label."""
    avg_camera_radius: float = RADIUS
    """Mean distance of the training cameras from the pivot, in world units."""
    avg_camera_pivot: tuple[float, float, float] = (0.0, 0.0, 0.2)
    """Point that the training cameras look at, in world units."""
    focal: float = FOCAL
    """Focal length of the training cameras, in image widths."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "avg_camera_pivot", tuple(float(v) for v in self.avg_camera_pivot))
        if self.superresolution not in SUPERRESOLUTION:
            raise ValueError(
                f"Unknown super-resolution {self.superresolution!r}. Known: {', '.join(SUPERRESOLUTION)}."
            )
        if self.plane_resolution < 8 or self.plane_resolution & (self.plane_resolution - 1):
            raise ValueError(f"plane_resolution must be a power of two >= 8, not {self.plane_resolution}.")
        if (self.ray_start == "auto") != (self.ray_end == "auto"):
            raise ValueError("ray_start and ray_end must both be numbers or both be 'auto'.")
        if self.depth_resolution < 4 and self.depth_resolution_importance > 0:
            raise ValueError("Importance sampling needs at least 4 coarse samples a ray.")

    def channels(self, resolution: int) -> int:
        """Return the number of channels of the backbone at a resolution."""
        return min(self.channel_base // resolution, self.channel_max)

    @property
    def block_resolutions(self) -> list[int]:
        """Resolutions of the backbone's blocks: 4, 8, ... up to `plane_resolution`."""
        return [4 << i for i in range((self.plane_resolution // 4).bit_length())]

    @property
    def num_ws(self) -> int:
        """Number of latent vectors w per picture: one per convolution, and one for the last ToRGB."""
        return 2 * len(self.block_resolutions)

    @property
    def trained_views(self) -> ViewRange:
        """Range of view angles in the training data, estimated from the camera radius.

        Training sets of portraits (camera radius 2.7: all of NVIDIA's heads) have few views beyond these
        angles. Generators of objects have nearer cameras and were trained with views from all sides.
        """
        return ViewRange(45.0, 30.0) if self.avg_camera_radius > 2.5 else ViewRange()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold."""
        values = dataclasses.asdict(self)
        values["avg_camera_pivot"] = list(self.avg_camera_pivot)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GeneratorConfig:
        """Return the configuration that `to_dict` has written.

        Raises:
            ValueError: unknown names; ignoring them could silently change the pictures.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"This generator needs settings that this version does not know: {', '.join(unknown)}."
            )
        return cls(**values)

    @classmethod
    def from_official(
        cls, init_kwargs: Mapping[str, Any], neural_resolution: int | None = None
    ) -> GeneratorConfig:
        """Return the configuration recorded in an official EG3D checkpoint.

        Args:
            init_kwargs: init arguments of the official generator, by their official names: z_dim, c_dim,
                w_dim, img_resolution, mapping_kwargs, channel_base, channel_max, rendering_kwargs,
                sr_num_fp16_res, conv_clamp. Others are ignored: they do not change the function computed.
            neural_resolution: resolution of volume rendering; None: the input resolution of the
                super-resolution.

        Raises:
            KeyError: a missing setting without a default.
            ValueError: a setting that this implementation does not support.
        """
        rendering = init_kwargs["rendering_kwargs"]
        radius = float(rendering.get("avg_camera_radius", RADIUS))
        module = str(rendering["superresolution_module"]).rsplit(".", 1)[-1]
        names = {
            "SuperresolutionHybrid8XDC": "8XDC",
            "SuperresolutionHybrid8X": "8X",
            "SuperresolutionHybrid4X": "4X",
            "SuperresolutionHybrid2X": "2X",
        }
        if module not in names:
            raise ValueError(f"The checkpoint uses a super-resolution this pack does not know: {module}.")
        if rendering.get("clamp_mode", "softplus") != "softplus":
            raise ValueError(f"Unknown clamp_mode {rendering['clamp_mode']!r}; only softplus is known.")
        if init_kwargs.get("num_fp16_res", 0):
            raise ValueError("A backbone in half precision (num_fp16_res > 0) is not supported.")
        superresolution = names[module]
        start, end = rendering["ray_start"], rendering["ray_end"]
        optional = {
            name: rendering[name]
            for name in ("white_back", "c_gen_conditioning_zero", "disparity_space_sampling", "sr_antialias")
            if name in rendering
        }
        return cls(
            z_dim=int(init_kwargs["z_dim"]),
            c_dim=int(init_kwargs["c_dim"]),
            w_dim=int(init_kwargs["w_dim"]),
            mapping_layers=int(init_kwargs.get("mapping_kwargs", {}).get("num_layers", 8)),
            img_resolution=int(init_kwargs["img_resolution"]),
            channel_base=int(init_kwargs.get("channel_base", 32768)),
            channel_max=int(init_kwargs.get("channel_max", 512)),
            conv_clamp=init_kwargs.get("conv_clamp"),
            superresolution=superresolution,
            sr_num_fp16_res=int(init_kwargs.get("sr_num_fp16_res", 0)),
            sr_noise_mode=str(rendering.get("superresolution_noise_mode", "none")),
            neural_resolution=int(neural_resolution or (64 if superresolution == "2X" else 128)),
            depth_resolution=int(rendering["depth_resolution"]),
            depth_resolution_importance=int(rendering.get("depth_resolution_importance", 0)),
            ray_start=start if start == "auto" else float(start),
            ray_end=end if end == "auto" else float(end),
            box_warp=float(rendering["box_warp"]),
            decoder_lr_mul=float(rendering.get("decoder_lr_mul", 1)),
            c_scale=float(rendering.get("c_scale", 1)),
            avg_camera_radius=radius,
            avg_camera_pivot=tuple(rendering.get("avg_camera_pivot", (0, 0, 0))),
            focal=focal_at(radius),
            **{name: bool(value) for name, value in optional.items()},
        )


def focal_at(radius: float) -> float:
    """Return the focal length of the training cameras, in image widths, by their mean distance.

    Checkpoints record the distance and not the focal length. EG3D trained on two kinds of cameras: 2.7 from
    heads (FFHQ, AFHQ) with a focal length of 4.2647, and 1.7 from objects (ShapeNet) with one of 1.7074.
    """
    return OBJECT_FOCAL if abs(radius - OBJECT_RADIUS) < 0.05 else FOCAL


def front_camera(config: GeneratorConfig, device: torch.device) -> Tensor:
    """Return the frontal camera [1, 25], on which the mapping network is conditioned by default."""
    return look_at(0.0, 0.0, config.avg_camera_radius, config.avg_camera_pivot, config.focal, device)
