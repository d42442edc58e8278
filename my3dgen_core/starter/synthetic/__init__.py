"""Synthetic heads: parametric meshes, their rendering, and the persons made of them."""
