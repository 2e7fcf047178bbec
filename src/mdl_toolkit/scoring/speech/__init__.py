"""Speech as texts: normalisers, what counts as a word, and how two texts are laid side by side."""
