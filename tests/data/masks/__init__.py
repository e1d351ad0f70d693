"""Tests of `raytrain/data/masks`."""
