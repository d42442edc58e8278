"""Data of one person: latents, adapter and identity, with their files."""
