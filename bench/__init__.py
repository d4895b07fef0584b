"""Benchmarks: everycore beside Node.js' cluster, in interleaved rounds. See README.md."""
