"""What running a cluster as a service takes: its signals, its log lines, what its workers are told."""
