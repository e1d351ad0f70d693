"""Tests of `raytrain/data/scores`."""
