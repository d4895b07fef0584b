"""What a worker has for listening: the sockets that stand for the primary's listeners, and the link."""
