"""How a worker listens: the sockets that stand for the primary's listeners, and the link."""
