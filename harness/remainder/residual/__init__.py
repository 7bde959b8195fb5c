"""Models of the residual r = x − x̂: what the reconstruction left out. Arrays only; knows no model, no task."""
