"""The EG3D generator (Chan et al., CVPR 2022), written anew from its published behaviour, in plain torch."""

from .config import GeneratorConfig
from .generator import Generator, Rendering

__all__ = ["Generator", "GeneratorConfig", "Rendering"]
