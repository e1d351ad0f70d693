"""Preparation, stage by stage."""
