"""The connections of a worker: how the worker takes, counts and limits them."""
