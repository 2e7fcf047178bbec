"""``convert-dataset``: from a table of rows to a dataset folder, by several worker processes."""
