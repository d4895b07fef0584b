"""channel: messages and handles between the primary and a worker."""

from bench.contestants import Options
from bench.figures import Column, interleave, table
from bench.processes import need, node, python, run_json

WINDOW, HANDLES = 64, 1000
OURS, NODE = "everycore", "node ipc"
_MESSAGES = (
    Column("to_primary", "to primary/s", ratio=True),
    Column("to_worker", "to worker/s", ratio=True),
)
_TRIPS = (
    Column("trips", "one at a time/s", ratio=True),
    Column("trips_windowed", f"{WINDOW} in flight/s", ratio=True),
)
_HANDLES = (
    Column("handles_to_worker", f"of {HANDLES} to worker"),
    Column("handles_to_primary", f"of {HANDLES} to primary"),
    Column("handles_both", f"of {2 * HANDLES} both at once"),
    Column("handles_to_worker_rate", "to worker/s", ratio=True),
    Column("handles_to_primary_rate", "to primary/s", ratio=True),
    Column("handles_both_rate", "both/s", ratio=True),
)


def run(options: Options) -> str:
    need("node")
    rounds, notes, trips = options.times(5), 200_000 if options.full else 60_000, 64 * 200
    arguments = (notes, trips, WINDOW, HANDLES)
    programs = {OURS: python("channel", *arguments), NODE: node("channel.js", *arguments)}

    def measure(name: str) -> dict[str, float]:
        figures: dict[str, float] = run_json(programs[name])
        return figures

    samples = interleave(list(programs), rounds, measure, label="channel")
    by_requests = {
        "trips" + name.removeprefix("requests"): name for name in ("requests", "requests_windowed")
    }
    trips_table = {
        f"{OURS} request()": [
            {to: sample[was] for to, was in by_requests.items()} for sample in samples[OURS]
        ],
        f"{OURS} send()": samples[OURS],
        NODE: samples[NODE],
    }
    return "\n".join(
        [
            table(
                f"channel: one way, {notes} small messages, {rounds} rounds",
                samples,
                _MESSAGES,
                baseline=NODE,
            ),
            table(
                f"channel: round trips, {trips} of them",
                trips_table,
                _TRIPS,
                baseline=NODE,
                notes=["Node has no request and reply: its figures are an echo by plain messages."],
            ),
            table(
                "channel: handles that arrived and answered",
                samples,
                _HANDLES,
                baseline=NODE,
                notes=["Ends of socket pairs; with Node, which can't send these, TCP connections."],
            ),
        ]
    )
