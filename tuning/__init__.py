"""Tuning: which settings are best. Search space, trials, early stopping, leaderboard."""
