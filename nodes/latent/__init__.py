"""Nodes that sample, mix, edit, project and save latents."""
