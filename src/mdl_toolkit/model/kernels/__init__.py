"""The computations that cost the most, each with a way of its own and the plain one beside it."""
