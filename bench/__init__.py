"""Benchmarks: everycore beside Node.js's cluster, in interleaved rounds. See README.md."""
