"""Makes the small base model that ships with the package: lessons, a tokenizer, and weights to start from."""
