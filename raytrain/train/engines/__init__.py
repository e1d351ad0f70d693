"""Engines, and what decides between them."""
