"""Synthetic heads: parametric meshes, ray casting, and persons outside the training distribution."""
