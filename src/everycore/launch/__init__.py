"""Runs any program in a worker, as `python` would: the worker's half of `everycore run`."""
