"""My3DGen in plain PyTorch: a personal 3D head generator from photos of one person. Needs no ComfyUI."""

from .camera import camera_path, from_angles, interpolate, interpolate_orbit, look_at, mirror, orbit
from .checkpoint import load_generator, save_generator
from .common.errors import CheckpointError
from .editing.alpha_space import AlphaSpace
from .editing.direction import Direction, principal_directions
from .editing.direction_finder import find_directions
from .editing.restoration import inpaint, sharpen
from .eg3d import Generator, GeneratorConfig, Rendering
from .evaluation import evaluate
from .face import AlignedFaces, FaceModels, align_faces, align_sequence, paste_back
from .fitting.inversion import InversionConfig, invert
from .fitting.recipe import Recipe, recipe_of
from .fitting.trainer import DivergedError
from .fitting.tuning import StopAndKeep, TuningConfig, personalize, pivotal_tune
from .mesh import extract_mesh, save_glb, texture_mesh
from .person.adapter import Adapter
from .person.apply import personalized
from .person.blending import mix_persons, render_between
from .person.identity import Identity, split_snapshot
from .person.identity_store import IdentityStore
from .person.latents import Latents, load_latents, save_latents
from .person.random_latents import mean_latent, random_latents

__all__ = [
    "Adapter",
    "AlignedFaces",
    "AlphaSpace",
    "CheckpointError",
    "Direction",
    "DivergedError",
    "FaceModels",
    "Generator",
    "GeneratorConfig",
    "Identity",
    "IdentityStore",
    "InversionConfig",
    "Latents",
    "Recipe",
    "Rendering",
    "StopAndKeep",
    "TuningConfig",
    "align_faces",
    "align_sequence",
    "camera_path",
    "evaluate",
    "extract_mesh",
    "find_directions",
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
    "paste_back",
    "personalize",
    "personalized",
    "pivotal_tune",
    "principal_directions",
    "random_latents",
    "recipe_of",
    "render_between",
    "save_generator",
    "save_glb",
    "save_latents",
    "sharpen",
    "split_snapshot",
    "texture_mesh",
]
