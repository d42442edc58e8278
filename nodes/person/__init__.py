"""Nodes from photos to an identity."""
