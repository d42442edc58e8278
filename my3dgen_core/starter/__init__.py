"""The bundled starter generator: synthetic heads, their truth, and how the prior was trained.

`truth` and `person` need the `starter` extra (anny and warp-lang); the weights in this folder need nothing.
"""

from .synthetic.heads import truth
from .synthetic.persons import Person, person

__all__ = ["Person", "person", "truth"]
