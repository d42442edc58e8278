"""My3DGen: a personal 3D prior from photos of one person. Plain torch; nothing here knows its host."""

from .camera import camera_path, interpolate, look_at, mirror, orbit
from .checkpoint import CheckpointError, load_generator, save_generator
from .eg3d import Generator, GeneratorConfig, Rendering

__all__ = [
    "CheckpointError",
    "Generator",
    "GeneratorConfig",
    "Rendering",
    "camera_path",
    "interpolate",
    "load_generator",
    "look_at",
    "mirror",
    "orbit",
    "save_generator",
]
