"""Predictions from files: which columns matter, and which rows of two files are of the same."""
