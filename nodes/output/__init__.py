"""Nodes that show, compare and write: renders, pasted photos, sheets, meshes."""
