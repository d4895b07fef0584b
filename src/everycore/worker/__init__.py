"""The worker's side of a cluster: what a worker process knows and does."""
