"""Submissions: how they are described, opened, hashed and built."""
