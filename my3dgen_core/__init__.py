"""My3DGen: a personal 3D prior from photos of one person. Plain torch; nothing here knows its host."""

from .camera import camera_path, from_angles, interpolate, interpolate_orbit, look_at, mirror, orbit
from .checkpoint import load_generator, save_generator
from .common.errors import CheckpointError
from .editing.alpha_space import AlphaSpace
from .editing.direction import Direction
from .editing.restoration import inpaint, sharpen
from .eg3d import Generator, GeneratorConfig, Rendering
from .evaluation import evaluate
from .face import AlignedFaces, FaceModels, align_faces
from .fitting.inversion import InversionConfig, invert
from .fitting.tuning import TuningConfig, personalize, pivotal_tune
from .mesh import extract_mesh, save_glb
from .person.adapter import Adapter
from .person.apply import personalized
from .person.blending import mix_persons, render_between
from .person.identity import Identity
from .person.latents import Latents, load_latents, save_latents
from .person.random_latents import mean_latent, random_latents

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
