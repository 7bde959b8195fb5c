"""Records as text, tables and figures for a reader."""
