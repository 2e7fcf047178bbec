"""``best/``: the model of the best evaluation of a run, how it is chosen and kept."""
