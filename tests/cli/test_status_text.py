"""What `everycore status` and `events` print."""

import pytest

from everycore.cli.status_text import duration, event_text, status_lines
from everycore.core.control import (
    ControlEvent,
    ListenerStatus,
    MoldStatus,
    ReloadStatus,
    ServiceStatus,
    SlotStatus,
    WorkerStatus,
)


def worker(number, slot, **rest):
    given = {
        "generation": 1, "pid": 4000 + number, "state": "listening", "is_ready": True, "age": 7300.0,
        "open": 3, "handed_over": 60, "outstanding": 0, "share": 0.6, "rss": 40 * 2**20,
        "busy": 0.251,
    }  # fmt: skip
    return WorkerStatus(id=number, slot=slot, **{**given, **rest})


NONE = {"open": 0, "busy": None}


def slot(number, workers, restarts, last_end, ended_at, *, is_failed=False):
    return SlotStatus(
        slot=number,
        workers=workers,
        is_failed=is_failed,
        restarts=restarts,
        last_end=last_end,
        ended_at=ended_at,
    )


def test_a_service_at_a_glance():
    status = ServiceStatus(
        name="shop", kind="serve", pid=42, version="1.0", state="running", started_at=0.0, uptime=200_000.0,
        size=5, generation=2,
        reload=ReloadStatus(generation=2, state="failed", reason="worker 9\nended"),
        workers=(
            worker(5, 0),
            worker(9, 0, is_ready=False, state="online", rss=None, pid=None, generation=2, share=0.0, **NONE),
            worker(6, 1, is_ready=False, state="draining", age=3.0, pss=30 * 2**20),
            worker(7, 3, stuck=12.0, is_full=True, busy=1.0),
            worker(8, 4, is_full=True),
        ),
        slots=(
            slot(0, (5, 9), 12, "exit status 3", 880.0),
            slot(1, (6,), 0, None, None),
            slot(2, (), 1, "exit status 1", 999.0, is_failed=True),
            slot(3, (7,), 0, None, None),
            slot(4, (8,), 0, None, None),
        ),
        listeners=(
            ListenerStatus(address="127.0.0.1:80", policy="shared", accepted=100, queued=2, waiting=7),
            ListenerStatus(address="unix:/x", policy="round_robin", accepted=1, queued=0),
        ),
        molds=(MoldStatus(pid=43, state="serving", workers=1, rss=60 * 2**20),),
    )  # fmt: skip
    assert (
        "\n".join(status_lines(status, 1000.0))
        == """\
shop (serve, pid 42, everycore 1.0): running, for 2 d
workers: 3 of 5 ready, 1 stuck, 1 full; generation 2; the last reload failed: worker 9 ended
listens on 127.0.0.1:80 (shared): 100 accepted, 2 queued, 7 in the backlog
listens on unix:/x (round_robin): 1 accepted, 0 queued
mold 43: serving, 1 worker made, 60 MiB

slot  worker  gen   pid  state     age  open  total  share  busy  memory  restarts  last end
   0       5    1  4005  ready     2 h     3     60    60%   25%  40 MiB        12  exit status 3, 2 min ago
   0       9    2     -  starting  2 h     0     60     0%     -       -
   1       6    1  4006  draining  3 s     3     60    60%   25%  30 MiB         0  -
   2       -    -     -  failed      -     -      -      -     -       -         1  exit status 1, 1 s ago
   3       7    1  4007  stuck     2 h     3     60    60%  100%  40 MiB         0  -
   4       8    1  4008  full      2 h     3     60    60%   25%  40 MiB         0  -"""
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0 s"), (119.9, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"), (172_800, "2 d")],
)
def test_a_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"event": "forked"}, "worker 3 (slot 1, pid 77) has been started"),
        ({"event": "listening", "text": "tcp://[::1]:80"}, "worker 3 (slot 1, pid 77) listens on tcp://[::1]:80"),
        ({"event": "exited", "text": "exit status 0", "voluntary": True},
         "worker 3 (slot 1, pid 77) ended: exit status 0, as asked"),
        ({"event": "exited", "text": "killed by SIGKILL", "voluntary": False, "pid": None},
         "worker 3 (slot 1, pid -) ended: killed by SIGKILL"),
        ({"event": "recycled", "text": "old"}, "worker 3 (slot 1, pid 77) is replaced: old"),
        ({"event": "melted", "text": "away"}, "worker 3 (slot 1, pid 77) melted away"),
        ({"event": "reload_began", "worker": None, "generation": 2}, "reload 2: begins"),
        ({"event": "reload_ended", "worker": None, "generation": 2}, "reload 2: all workers are new"),
        ({"event": "reload_ended", "worker": None, "generation": 2, "text": "a\nb"}, "reload 2: failed: a b"),
        ({"event": "eclipse", "worker": None, "text": "soon"}, "eclipse soon"),
    ],
)  # fmt: skip
def test_an_event(event, text):
    given = {"worker": 3, "slot": 1, "pid": 77, **event}
    assert event_text(ControlEvent(seq=1, at=0.0, **given)) == text
