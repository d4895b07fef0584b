"""The event loops of a worker whose servers listen through the primary."""
