"""Tests of the sources, a file each."""
