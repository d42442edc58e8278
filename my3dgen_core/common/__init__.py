"""Errors, random numbers and picture operations that know nothing of heads."""
