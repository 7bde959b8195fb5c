"""Records of measurements: their schema, their numbers, and everything that follows from their values."""
