"""Models of the residual r = x − x̂: what a reconstruction leaves out. Only arrays here: no model, no task."""
