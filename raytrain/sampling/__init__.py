"""Sampling: what a person asks for (`prompts`) becomes images (`generate`), laid out side by side
(`grid`)."""
