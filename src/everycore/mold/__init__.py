"""The process from which workers are forked. It imports the program once, and forks when the primary asks."""
