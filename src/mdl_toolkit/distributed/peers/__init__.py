"""Which of a run's processes are alive and can be reached, and what a lost one means for the others."""
