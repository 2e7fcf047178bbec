"""Which micro-batch comes when, and the worker processes that prepare them."""
