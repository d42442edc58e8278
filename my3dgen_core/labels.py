"""Public import path of `my3dgen_core.person.eg3d_dataset`."""

from .person.eg3d_dataset import read_anchors, read_labels, read_latent

__all__ = ["read_anchors", "read_labels", "read_latent"]
