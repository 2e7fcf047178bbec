"""From a path or URL to samples: one channel at the model's rate, bounded, or an error with the reason."""
