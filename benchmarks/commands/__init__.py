"""Whole commands, as a person runs them."""
