"""Compatibility name of `my3dgen_core.person.eg3d_dataset`, which earlier documentation promised."""

from .person.eg3d_dataset import read_anchors, read_labels, read_latent

__all__ = ["read_anchors", "read_labels", "read_latent"]
