"""My3DGen: a personal 3D prior from photos of one person. Plain torch; nothing here knows its host."""

from .adapter import Adapter, personalized
from .camera import camera_path, interpolate, look_at, mirror, orbit
from .checkpoint import CheckpointError, load_generator, save_generator
from .eg3d import Generator, GeneratorConfig, Rendering
from .evaluation import evaluate
from .face import AlignedFaces, FaceModels, align_faces
from .identity import Identity
from .inversion import InversionConfig, invert
from .latents import Latents
from .tuning import TuningConfig, personalize

__all__ = [
    "Adapter",
    "AlignedFaces",
    "CheckpointError",
    "FaceModels",
    "Generator",
    "GeneratorConfig",
    "Identity",
    "InversionConfig",
    "Latents",
    "Rendering",
    "TuningConfig",
    "align_faces",
    "camera_path",
    "evaluate",
    "interpolate",
    "invert",
    "load_generator",
    "look_at",
    "mirror",
    "orbit",
    "personalize",
    "personalized",
    "save_generator",
]
