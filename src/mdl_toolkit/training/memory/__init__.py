"""How much memory a run needs, and what is done when a micro-batch doesn't fit."""
