"""Training, export and evaluation of the starter generator."""
