"""counting.py gathered|mmaps DEAD: the cost of counting for a program, and of reporting for an observer.

gathered: prometheus-client as it is, its registry written out every second, as everycore does it. mmaps:
prometheus-client's multiprocess mode, a file for each worker and kind. DEAD: workers that have ended before.
Each has 1 000 series. Prints microseconds to count and to observe, milliseconds to write out a registry and
to report the sums of three workers and the dead ones, and the bytes that are kept.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

ROUNDS, SERIES, ALIVE = 200_000, 1000, 3


def counters():
    from prometheus_client import Counter, Histogram

    count = Counter("orders", "x", ["kind"])
    for number in range(SERIES):
        count.labels(f"kind-{number}").inc()
    return count.labels("kind-1"), Histogram("seconds", "x")


def timed(call, rounds):
    begun = time.process_time()
    for _ in range(rounds):
        call()
    return (time.process_time() - begun) / rounds


def gathered(dead):
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.openmetrics.exposition import generate_latest

    from everycore.observer.gathering import Gatherer
    from everycore.system.tally import ObserverTally, PrimaryTally, WorkerTally
    from everycore.worker.intercept.for_prometheus import Teller

    count, histogram = counters()
    primary = PrimaryTally()
    gatherer = Gatherer(ObserverTally(primary.fd))
    tellers = []
    for number in range(1, ALIVE + dead + 1):
        slot = primary.allot(number)
        teller = Teller(WorkerTally(os.dup(primary.fd), slot))
        teller._registry = REGISTRY
        teller.tell()
        if number <= dead:
            primary.leave(slot, number)
            gatherer.fold()
        else:
            tellers.append(teller)

    def tell_changed():
        count.inc()
        tellers[0].tell()

    class Own:
        def collect(self):
            return gatherer.metrics()

    def scrape():
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Own())
        return generate_latest(registry)

    return {
        "inc": timed(count.inc, ROUNDS) * 1e6,
        "observe": timed(lambda: histogram.observe(0.3), ROUNDS) * 1e6,
        "told": timed(tell_changed, 50) * 1e3,
        "scrape": timed(scrape, 20) * 1e3,
        "kept": os.fstat(primary.fd).st_blocks * 512,
    }


def mmaps(dead):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        source = "from bench.programs.counting import counters; counters()"
        for _ in range(ALIVE - 1 + dead):
            subprocess.run([sys.executable, "-c", source], check=True)
        count, histogram = counters()
        from prometheus_client import CollectorRegistry
        from prometheus_client.multiprocess import MultiProcessCollector
        from prometheus_client.openmetrics.exposition import generate_latest

        def scrape():
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
            return generate_latest(registry)

        return {
            "inc": timed(count.inc, ROUNDS) * 1e6,
            "observe": timed(lambda: histogram.observe(0.3), ROUNDS) * 1e6,
            "scrape": timed(scrape, 20) * 1e3,
            "kept": sum(os.stat(f"{folder}/{name}").st_size for name in os.listdir(folder)),
        }


if __name__ == "__main__":
    print(json.dumps({"gathered": gathered, "mmaps": mmaps}[sys.argv[1]](int(sys.argv[2]))))
