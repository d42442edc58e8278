"""Edit latents and photos of a person: alpha space, semantic directions, restoration."""
