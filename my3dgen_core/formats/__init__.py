"""Files in, data out: readers and writers that run no code from a file and know no generator."""
