"""Reach, start and guard a Ray cluster, and send jobs to it.

Nothing here knows about images or weights, and importing this package imports neither torch nor
Ray: `auth` must be able to set the environment before Ray reads it.
"""
