"""Measuring: losses, the evaluation loop, intervals, summaries and complexity."""
