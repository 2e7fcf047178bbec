"""Which clips make up a step, how they are split over processes, and how they are packed."""
