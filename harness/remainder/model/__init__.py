"""Pretrained models and plain modules, split at a site or into a graph."""
