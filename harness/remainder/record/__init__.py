"""What was measured: the schema of a record, its numbers, and everything that follows from its values."""
