"""What a worker has behind its public face, for the few tests that look at it: `inside.connections.open`."""

#: For the program of a worker: gives it the name `inside`, which is its `worker.session.Session`.
INSIDE = "from everycore import current\n\ninside = current.session()\n"
