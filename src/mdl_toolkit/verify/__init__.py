"""``mdl-toolkit verify``: whether a model says the same in every form in which it is loaded and served."""
