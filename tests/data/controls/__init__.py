"""Tests of `raytrain/data/controls`."""
