"""What a cluster tells, by the kinds of its events.

told = told_by(cluster)
...
assert told == LIFE
"""

from everycore import Cluster, Disconnected, Event, Exited, Forked, Online, Ready

#: A worker's, from its spawn to its end, if it serves nobody.
LIFE = [Forked, Online, Ready, Disconnected, Exited]


def told_by(cluster: Cluster) -> list[type[Event]]:
    """Grows with each event from now on."""
    told: list[type[Event]] = []
    cluster.on(Event, lambda event: told.append(type(event)))
    return told
