"""Fit latents and generator weights to photos: losses, inversion, projection, tuning."""
