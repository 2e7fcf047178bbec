"""``doctor``: what is right and wrong with a machine, and with all machines of a launch, before a run is."""
