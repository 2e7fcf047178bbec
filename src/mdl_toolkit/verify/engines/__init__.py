"""Other programs that load a model folder, each behind a small function, and their known faults."""
