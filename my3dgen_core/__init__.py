"""My3DGen: a personal 3D prior from photos of one person. Plain torch; nothing here knows its host."""

from .adapter import Adapter, personalized
from .alpha_space import AlphaSpace
from .camera import from_angles, interpolate, interpolate_orbit, look_at, mirror
from .camera_paths import camera_path, orbit
from .checkpoint import CheckpointError, load_generator, save_generator
from .direction import Direction
from .eg3d import Generator, GeneratorConfig, Rendering
from .evaluation import evaluate
from .face import AlignedFaces, FaceModels, align_faces
from .identity import Identity
from .inversion import InversionConfig, invert
from .latents import Latents
from .latents_file import load_latents, save_latents
from .mesh import extract_mesh, save_glb
from .persons import mix_persons, render_between
from .prior import mean_latent, random_latents
from .restoration import inpaint, sharpen
from .tuning import TuningConfig, personalize, pivotal_tune

__all__ = [
    "Adapter",
    "AlignedFaces",
    "AlphaSpace",
    "CheckpointError",
    "Direction",
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
    "extract_mesh",
    "from_angles",
    "inpaint",
    "interpolate",
    "interpolate_orbit",
    "invert",
    "load_generator",
    "load_latents",
    "look_at",
    "mean_latent",
    "mirror",
    "mix_persons",
    "orbit",
    "personalize",
    "personalized",
    "pivotal_tune",
    "random_latents",
    "render_between",
    "save_generator",
    "save_glb",
    "save_latents",
    "sharpen",
]
