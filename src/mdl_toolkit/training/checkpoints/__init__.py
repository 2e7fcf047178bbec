"""Checkpoints of a run: what is in them, how they are written, and how a run is resumed."""
