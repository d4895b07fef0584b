"""`everycore.control`: it finds the service, asks it, and believes only what a service may say."""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from everycore import ControlError, control
from everycore.core.control import AskHello
from everycore.system import control_sockets
from everycore.system.control_sockets import (
    PeerCredentials,
    candidates,
    listen_abstract,
    listen_at,
    listen_in,
)
from tests.kit import scaled

HELLO = {"name": "shop", "kind": "program", "pid": 7, "version": "1"}


def ok(result: object) -> bytes:
    return json.dumps({"v": 1, "ok": True, "result": result}).encode() + b"\n"


def hello(name="shop", pid=7):
    return ok({**HELLO, "name": name, "pid": pid})


class Played:
    """A service in a thread: the answer to each operation is a line, or None for silence."""

    def __init__(self, listener, answers):
        self.listener, self.answers = listener, answers
        self.asked: list[dict[str, object]] = []
        self._ending, self._told = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        streams: dict[socket.socket, Any] = {}
        while True:
            ready, _, _ = select.select([self._ending, self.listener.sock, *streams], [], [])
            if self._ending in ready:
                break
            for sock in ready:
                if sock is self.listener.sock:
                    client = sock.accept()[0]
                    streams[client] = client.makefile("rb")
                    continue
                line = streams[sock].readline()
                if not line:
                    streams.pop(sock).close()
                    sock.close()
                    continue
                request = json.loads(line)
                self.asked.append(request)
                answer = self.answers.get(request["op"])
                if answer == b"":
                    streams.pop(sock).close()
                    sock.close()
                elif answer is not None:
                    sock.sendall(answer)
        for sock, stream in streams.items():
            stream.close()
            sock.close()

    def close(self):
        os.write(self._told, b"x")
        self._thread.join()
        os.close(self._ending)
        os.close(self._told)
        self.listener.close()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where services are searched for: not among those of the user who runs the tests."""
    folder = str(tmp_path / "everycore")
    monkeypatch.setattr(control, "folder_of", lambda _environ, _uid: folder)
    monkeypatch.setattr(
        control, "candidates", lambda folder: [it for it in candidates(folder) if not it.is_abstract]
    )
    return folder


@pytest.fixture
def play(folder):
    with contextlib.ExitStack() as stack:

        def play_it(name="shop", pid=7, *, where=None, **answers):
            answers.setdefault("hello", hello(name, pid))
            played = Played(where or listen_in(folder, name, pid), answers)
            stack.callback(played.close)
            return played

        yield play_it


def refused(kind, **rest):
    with pytest.raises(ControlError) as caught:
        control.connect(**rest)
    assert caught.value.kind == kind, caught.value
    return str(caught.value)


# Which one


def test_the_only_one_needs_no_name(play):
    play()
    with control.connect() as service:
        assert (service.name.name, service.name.pid) == ("shop", 7)
    assert [service.name for service in control.services()] == ["shop"]


def test_one_of_several_is_picked(play):
    play("shop", 7), play("shop", 8), play("blog", 9)
    assert refused("several").startswith(
        "several services run here: blog (pid 9), shop (pid 7), shop (pid 8); "
    )
    assert refused("several").endswith("--pid picks one")
    assert "--name or" not in refused("several", name="shop")  # they have the same
    with control.connect("blog") as service:
        assert service.name.pid == 9
    with control.connect(pid=8) as service:
        assert service.name.pid == 8
    assert "no service named 'x'" in refused("no_service", name="x")
    assert "there is blog (pid 9), shop (pid 7), shop (pid 8)" in refused("no_service", name="x")
    assert "no service named 'blog' with the pid 7" in refused("no_service", name="blog", pid=7)


def test_none_is_one_sentence_and_a_dead_file_is_removed(folder):
    left = listen_in(folder, "shop", 7)
    left.sock.close()
    text = refused("no_service")
    assert text == f"no service of uid {os.geteuid()} answers here (in {folder}, or by an abstract name)"
    assert os.listdir(folder) == []


def test_a_silent_one_keeps_no_other_from_being_served(play, monkeypatch):
    monkeypatch.setattr(control, "NAME_TIMEOUT", 0.05)
    play("stopped", 6, hello=None)
    assert "a service does not answer: " in refused("no_answer")
    play("shop", 7)
    with control.connect("shop", timeout=scaled(10)) as service:
        assert service.name.name == "shop"


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n", ok([1]), ok({"name": 3}), b"", b"[" * 9000 + b"\n"]
)
def test_a_server_that_is_not_everycore_is_skipped(play, answer):
    play("other", 6, hello=answer)
    play("shop", 7)
    with control.connect() as service:
        assert service.name.name == "shop"


def test_an_abstract_name(monkeypatch):
    """The folder is missing, on a read-only file system for instance."""
    monkeypatch.setattr(control, "folder_of", lambda _environ, _uid: None)
    played = Played(listen_abstract(os.geteuid(), os.getpid()), {"hello": hello(pid=os.getpid())})
    try:
        with control.connect(pid=os.getpid()) as service:
            assert service.name.name == "shop"
    finally:
        played.close()


def test_a_path(play, tmp_path):
    path = tmp_path / "x.sock"
    assert f"no service listens at {str(path)!r}" in refused("no_service", path=path)
    played = play(where=listen_at(str(path)))
    with control.connect(path=path) as service:
        assert service.name.name == "shop"
    assert "is shop (pid 7)" in refused("no_service", path=path, name="blog")
    assert "is shop (pid 7)" in refused("no_service", path=path, pid=3)
    played.answers["hello"] = None
    assert "does not answer" in refused("no_answer", path=path, timeout=0.05)
    (tmp_path / "file").touch()
    assert refused("no_service", path=tmp_path / "file")


def test_a_path_that_another_user_has_taken(play, tmp_path, monkeypatch):
    path = tmp_path / "x.sock"
    play(where=listen_at(str(path)))
    stranger = PeerCredentials(5, os.geteuid() + 1)
    monkeypatch.setattr(control_sockets, "credentials", lambda _: stranger)
    assert "has taken that name" in refused("forbidden", path=path)


# What it is asked

EVENT = b'{"v": 1, "event": {"seq": 1, "at": 1.5, "event": "ready", "worker": 3}}\n'


def test_events_come_before_the_result(play):
    played = play(reload=EVENT + EVENT + ok({"generation": 4}))
    with control.connect() as service:
        told: list[control.ControlEvent] = []
        assert service.reload(on_event=told.append).generation == 4
        assert [event.worker for event in told] == [3, 3]
        assert service.reload().generation == 4
    assert [request.get("follow", False) for request in played.asked[1:]] == [True, False]


def test_following_ends_with_the_service(play):
    played = play(events=EVENT)
    with control.connect() as service:
        events = service.follow()
        assert next(events).worker == 3
        played.answers["hello"] = b""
        service._send(AskHello(v=1), None)
        assert list(events) == []


def test_left_in_the_middle_it_has_to_be_connected_again(play):
    """A late answer is not taken for the answer to the next question."""
    play(events=EVENT * 3, reload=EVENT + ok({"generation": 1}), status=ok({}))
    service = control.connect()
    for _ in service.follow():
        break
    with pytest.raises(ControlError, match="the connection is closed"):
        service.status()

    def refuse(event):
        raise ZeroDivisionError

    service = control.connect()
    with pytest.raises(ZeroDivisionError):
        service.reload(on_event=refuse)
    with pytest.raises(ControlError, match="the connection is closed"):
        service.status()


def test_a_follower_that_is_refused_is_told(play):
    play(events=b'{"v": 1, "ok": false, "error": {"kind": "busy", "text": "come again"}}\n')
    with control.connect() as service, pytest.raises(ControlError, match="come again"):
        list(service.follow())


def test_a_refusal_is_raised(play):
    play(
        drain=b'{"v": 1, "ok": false, "error": {"kind": "unknown_worker", "text": "there is no worker 9"}}\n'
    )
    with control.connect() as service:
        with pytest.raises(ControlError, match="there is no worker 9") as caught:
            service.drain(9)
        assert caught.value.kind == "unknown_worker"


def test_no_answer_in_time_closes_the_connection(play):
    play(status=None, reload=None)
    service = control.connect(timeout=0.05)
    with pytest.raises(ControlError, match="does not answer in time"):
        service.status()
    with pytest.raises(ControlError) as caught:
        service.status()
    assert caught.value.kind == "gone"
    with control.connect() as service, pytest.raises(ControlError) as caught:
        service.reload(timeout=0.05)
    assert caught.value.kind == "no_answer"


def test_the_end_of_the_service_is_told(play):
    play(reload=b"", stop=b"")
    with control.connect() as service, pytest.raises(ControlError) as caught:
        service.reload()
    assert caught.value.kind == "gone"
    with control.connect() as service:
        service.stop()  # it has ended, as requested


def test_a_line_of_a_service_has_an_end(play, monkeypatch):
    monkeypatch.setattr(control, "_MOST_LINE", 1000)
    play(status=b"x" * 5000)
    with control.connect() as service, pytest.raises(ControlError, match="longer than 1000"):
        service.status()


def test_scale_takes_a_number_or_a_step(play):
    played = play(scale=ok({"size": 3, "before": 2}))
    with control.connect() as service:
        assert service.scale(3).size == service.scale(by=1).size == 3
    assert [(request.get("to"), request.get("by")) for request in played.asked[1:]] == [(3, None), (None, 1)]


def test_it_does_not_need_asyncio():
    """A command line tool must start at once."""
    code = "import everycore.control, sys; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
