"""What happens step by step: the loop, the optimizer, learning rates."""
