"""From the rows of a table to packed batches: input, audio, prompt, conversion, dataset, batching."""
