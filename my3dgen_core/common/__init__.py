"""Errors, folders, progress, random numbers and image operations that every package above may use."""
