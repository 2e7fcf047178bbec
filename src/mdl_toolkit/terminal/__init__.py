"""What a person sees and says: the console, the standard streams, and Ctrl-C."""
