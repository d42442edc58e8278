"""The bundled starter generator: its weights, the synthetic heads it was trained on, and its training.

`truth` and `person` need the `starter` extra (anny and warp-lang); loading the weights needs nothing else.
"""

from .synthetic.heads import truth
from .synthetic.persons import Person, person

__all__ = ["Person", "person", "truth"]
