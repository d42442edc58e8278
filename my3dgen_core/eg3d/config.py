"""Everything that shapes a generator, in one frozen dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..camera import FOCAL, RADIUS, ViewRange, look_at

SUPERRESOLUTION = ("8XDC", "8X", "4X", "2X")
PLANE_CHANNELS = 32


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes and rendering settings of an EG3D generator; the defaults are NVIDIA's ffhq512-128."""

    z_dim: int = 512
    c_dim: int = 25
    w_dim: int = 512
    mapping_layers: int = 2
    img_resolution: int = 512
    plane_resolution: int = 256
    channel_base: int = 32768
    """Channels at resolution r are min(channel_base // r, channel_max)."""
    channel_max: int = 512
    conv_clamp: float | None = None
    """Clamp of the backbone's activations; None is none."""
    superresolution: str = "8XDC"
    sr_antialias: bool = True
    sr_num_fp16_res: int = 4
    """> 0: super-resolution runs in half precision where the device has it, clamped at 256 everywhere."""
    sr_noise_mode: str = "none"
    neural_resolution: int = 128
    depth_resolution: int = 48
    depth_resolution_importance: int = 48
    ray_start: float | str = 2.25
    """World units along the ray, or "auto": where the ray enters the box."""
    ray_end: float | str = 3.3
    box_warp: float = 1.0
    """Side of the cube that the planes cover, centred on the origin."""
    disparity_space_sampling: bool = False
    white_back: bool = False
    decoder_lr_mul: float = 1.0
    c_scale: float = 1.0
    c_gen_conditioning_zero: bool = False
    avg_camera_radius: float = RADIUS
    avg_camera_pivot: tuple[float, float, float] = (0.0, 0.0, 0.2)
    focal: float = FOCAL

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
        """Channels of the backbone at a resolution."""
        return min(self.channel_base // resolution, self.channel_max)

    @property
    def block_resolutions(self) -> list[int]:
        """4, 8, ... up to the planes' own resolution."""
        return [4 << i for i in range((self.plane_resolution // 4).bit_length())]

    @property
    def num_ws(self) -> int:
        """Style vectors that the backbone takes: one a convolution, and one for the last ToRGB."""
        return 2 * len(self.block_resolutions)

    @property
    def trained_views(self) -> ViewRange:
        """From how far round the generator has seen what it shows, as far as its camera tells.

        Portraits (cameras 2.7 away: all of NVIDIA's heads) hardly go beyond these angles. Generators of
        objects, whose cameras stand nearer, have seen every side.
        """
        return ViewRange(45.0, 30.0) if self.avg_camera_radius > 2.5 else ViewRange()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = dataclasses.asdict(self)
        values["avg_camera_pivot"] = list(self.avg_camera_pivot)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GeneratorConfig:
        """The inverse of `to_dict`. Unknown names are an error: they would change the picture silently."""
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
        """The configuration recorded in an official checkpoint (its init arguments; eg3d's own names).

        Args:
            init_kwargs: z_dim, c_dim, w_dim, img_resolution, mapping_kwargs, channel_base, channel_max,
                rendering_kwargs, sr_num_fp16_res, conv_clamp; others do not change the function computed.
            neural_resolution: the resolution the volume is rendered at; None: the super-resolution's own
            input.

        Raises:
            ValueError: a setting that would need other code than this.
        """
        rendering = init_kwargs["rendering_kwargs"]
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
            avg_camera_radius=float(rendering.get("avg_camera_radius", 2.7)),
            avg_camera_pivot=tuple(rendering.get("avg_camera_pivot", (0, 0, 0))),
            **{name: bool(value) for name, value in optional.items()},
        )


def front_camera(config: GeneratorConfig, device: torch.device) -> Tensor:
    """The camera [1, 25] that the mapping is conditioned on when nothing else is asked for."""
    return look_at(0.0, 0.0, config.avg_camera_radius, config.avg_camera_pivot, config.focal, device)
