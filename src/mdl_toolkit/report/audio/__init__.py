"""The recordings of a report: which ones, where they are, and how they look."""
