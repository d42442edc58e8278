"""Readers and writers of file formats. They run no code from a file and know nothing of generators."""
