"""The protocol that interpretations keep, the reference ones, and the rules that are checked."""
