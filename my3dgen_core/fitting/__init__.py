"""Photos to latents and weights: losses, inversion, tuning."""
