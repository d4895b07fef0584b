"""What running a cluster as a service takes: where settings come from, what workers are told, log lines."""
