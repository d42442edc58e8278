"""What one keeps of a person: latents, adapter, identity."""
