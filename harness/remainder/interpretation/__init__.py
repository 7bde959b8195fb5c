"""The interface of interpretations, the reference ones, and the rules that are checked."""
