"""Sampling: requested images (`prompts`) become images (`generate`), laid out side by side
(`grid`)."""
