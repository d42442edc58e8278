"""The alpha-space study: samples, interpolation, edits and restoration within a person."""
