"""From rows to packed batches: records, audio, prompt, convert, dataset, batching, collate."""
