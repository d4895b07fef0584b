"""What a worker has behind its public face, for the few tests that examine it: `inside.connections.open`."""

#: For the program of a worker: binds the name `inside` to its `worker.session.Session`.
INSIDE = "from everycore import current\n\ninside = current.session()\n"
