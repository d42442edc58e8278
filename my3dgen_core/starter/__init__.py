"""The bundled starter generator: its weights, and the synthetic heads it was trained on.

`truth` and `person` need the `starter` extra (anny and warp-lang); loading the weights needs nothing else.
`starter/training`, its training, is in the repository, not in the archive that ComfyUI's registry publishes.
"""

from .synthetic.heads import truth
from .synthetic.persons import Person, person

__all__ = ["Person", "person", "truth"]
