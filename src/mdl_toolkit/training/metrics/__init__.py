"""A run's numbers: ``metrics.jsonl``, trackers, and how they are computed."""
