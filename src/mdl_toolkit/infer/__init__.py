"""From rows to predictions: reading ahead, generation in batches, a journal that survives being killed."""
