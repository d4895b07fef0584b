"""The listeners of a cluster, and how their connections reach the workers."""
