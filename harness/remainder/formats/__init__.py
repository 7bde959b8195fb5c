"""Readers of the file formats that interpretations come in: one module a format."""
