"""How good answers are: tasks that judge them, intervals, slices, comparisons, and files that say so."""
