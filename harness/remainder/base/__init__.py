"""Ground that every other room stands on: files, caches, hubs, progress, and text for a terminal."""
