"""Periodic work of a run."""
