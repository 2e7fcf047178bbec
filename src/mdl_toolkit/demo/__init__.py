"""The embedded example: a small base model, synthetic sounds, and a demonstration of every step."""
