"""The answers so far, as lines: on disk beside the output, or on their way to the host that has it."""
