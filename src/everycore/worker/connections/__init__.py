"""The connections of a worker: how they are taken, counted and limited."""
