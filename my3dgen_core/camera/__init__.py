"""The 25-number camera: poses, interpolation and paths."""

from .paths import *
from .pose import *
