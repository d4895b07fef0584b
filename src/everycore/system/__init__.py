"""One small file per kernel facility, each callable without an event loop."""
