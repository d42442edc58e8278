"""Alpha space, semantic directions and restoration."""
