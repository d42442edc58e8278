"""Nodes from photos to an identity: load, align, invert, train, save, blend."""
