"""What is trained: adapters or weights, the model as the loop sees it, and the memory that it needs."""
