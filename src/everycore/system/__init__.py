"""One small module for each kernel facility. Each can be called without an event loop."""
