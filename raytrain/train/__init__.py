"""Training: one worker's loop, the engines under it, and its launch through Ray Train."""
