"""Many measurements: which are finished, and which are to do."""
