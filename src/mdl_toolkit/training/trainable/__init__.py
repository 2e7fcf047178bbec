"""What is trained: adapters or weights, their layers, and the model as the loop sees it."""
