"""``train``: a run from settings to ``final/``."""
