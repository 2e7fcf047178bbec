"""``inspect``: what is in a table or a dataset, and what is wrong with it, before training. No torch."""
