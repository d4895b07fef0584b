"""The process from which workers are forked: imports once, and makes workers when the primary asks."""
