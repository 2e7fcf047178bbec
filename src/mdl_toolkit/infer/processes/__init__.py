"""The processes of a launch that share the rows: which one this is, what they tell each other, waiting."""
