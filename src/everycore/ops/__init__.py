"""A cluster that is run as a service: its signals, its log, and what its workers are told."""
