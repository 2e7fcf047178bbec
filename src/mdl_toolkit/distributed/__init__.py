"""One run on many processes: how they start, find each other, talk, share the model, and end together."""
