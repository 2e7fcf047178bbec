"""The options of each command: a file each, those of commands with few in ``small_commands.py``."""
