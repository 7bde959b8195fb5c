"""Tasks made ready to measure: models, data and activations."""
