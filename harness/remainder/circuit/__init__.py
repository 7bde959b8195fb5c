"""Circuits: a model as a graph of heads and MLPs, some of whose edges are kept."""
