"""Rows of a CSV, JSON, JSON Lines or Parquet file, one at a time, each with its place in the file."""
