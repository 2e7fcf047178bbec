"""The network of a run: addresses of either family, interfaces, and why another host can't be reached."""
