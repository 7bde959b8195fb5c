"""Models of the residual r = x − x̂: what the reconstruction left out. Arrays only: no model, no task."""
