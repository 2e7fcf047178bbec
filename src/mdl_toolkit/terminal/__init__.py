"""What a person sees: messages, progress, standard streams that never end a run, and what signals do."""
