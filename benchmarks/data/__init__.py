"""Conversion, feeding and balance."""
