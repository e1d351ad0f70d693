"""Diffusion mathematics: pure functions named for paper and equation; shapes in comments,
no config objects.

Legend: B batch, C latent channels, h w latent height and width.
"""
