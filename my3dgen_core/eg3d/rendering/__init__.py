"""Planes and rays to pixels: the implementations of volume rendering, and the one place that chooses."""
