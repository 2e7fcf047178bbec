"""Model folders: reading, describing and writing them. The only place that knows their layouts."""
