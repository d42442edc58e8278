"""EG3D generator (Chan et al., CVPR 2022): an independent implementation in plain PyTorch."""

from .config import GeneratorConfig
from .generator import Generator, Rendering

__all__ = ["Generator", "GeneratorConfig", "Rendering"]
