"""The kinds of the events that a cluster emits.

told = told_by(cluster)
...
assert told == LIFE
"""

from everycore import Cluster, Disconnected, Event, Exited, Forked, Online, Ready

#: The events of a worker that serves no client, from its spawn to its end.
LIFE = [Forked, Online, Ready, Disconnected, Exited]


def told_by(cluster: Cluster) -> list[type[Event]]:
    """A list that grows with each event from now on."""
    told: list[type[Event]] = []
    cluster.on(Event, lambda event: told.append(type(event)))
    return told
