"""Nodes that make, mix, edit and project latents."""
