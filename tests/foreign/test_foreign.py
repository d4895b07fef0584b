"""Private parts of other libraries: this Python has the known ones, and nothing breaks without them."""

import asyncio
import gc
import importlib
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest
import uvicorn

from everycore import foreign
from everycore.foreign import asyncio_internals, socket_internals, uvicorn_internals
from tests.kit import turn

PROBES = {
    "asyncio_internals": ["servers", "selectors"],
    "uvloop_internals": ["connect", "backend", "stamps"],
    "uvicorn_internals": ["addresses", "handover"],
    "hypercorn_internals": ["goaway"],
}


def found(module, without=""):
    """The results of the probes of a module in a separate process."""
    if module == "uvloop_internals":
        pytest.importorskip("uvloop")
    source = f"""
        import json
        from everycore.foreign import {module} as module
        found = module.capabilities()
        print(json.dumps({{name: getattr(found, name) for name in type(found).__slots__}}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        env=os.environ | {foreign.VARIABLE: without},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", PROBES)
def test_this_python_has_all_of_them(module):
    """A Python or a library without them is slower, and everycore needs a new release."""
    assert found(module) == dict.fromkeys(PROBES[module], True)


@pytest.mark.parametrize("module", PROBES)
@pytest.mark.parametrize("name", ["first", "library", "all"])
def test_the_variable_makes_them_fail(module, name):
    library = module.removesuffix("_internals")
    first = PROBES[module][0]
    said = {"first": f"{library}.{first}, socket.accept", "library": library, "all": "all"}[name]
    expected = {part: name == "first" and part != first for part in PROBES[module]}
    assert found(module, said) == expected


@pytest.mark.parametrize(("without", "natively"), [("", True), ("uvloop.accept", False)])
def test_uvloop_accepts_by_itself_only_where_all_it_takes_is_known(without, natively):
    pytest.importorskip("uvloop")
    source = """
        import os
        from everycore.foreign import uvloop_internals
        uvloop_internals.capabilities()
        before = set(os.listdir("/proc/self/fd"))
        print(uvloop_internals.accepts_natively())
        assert set(os.listdir("/proc/self/fd")) == before
    """
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(source)],
        env=os.environ | {foreign.VARIABLE: without},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.strip(), done.stderr) == (str(natively), "")


def test_nothing_is_probed_for_a_loop_that_is_not_asyncios():
    source = """
        from everycore.foreign import asyncio_internals
        assert asyncio_internals.selector_of(object()) is None
        assert asyncio_internals.capabilities.cache_info().currsize == 0
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(source)], check=True)


def test_a_probe_runs_where_a_loop_runs_too():
    async def inside():
        return foreign.outside_any_loop(lambda: str(asyncio.run(turn())), "no thread")

    assert asyncio.run(inside()) == "None"


def test_where_no_thread_can_be_started_no_probe_succeeds(monkeypatch):
    """RLIMIT_NPROC, or pids.max of a container: the public interfaces need no thread."""

    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")

    async def inside():
        monkeypatch.setattr("threading._start_new_thread", refuse, raising=False)
        monkeypatch.setattr("threading._start_joinable_thread", refuse, raising=False)
        try:
            return foreign.try_probes(asyncio.new_event_loop, {"one": lambda *_: True})
        finally:
            monkeypatch.undo()

    assert asyncio.run(inside()) == frozenset()


def test_a_probe_that_raises_has_failed_and_hurts_no_other():
    def broken(loop, near, far):
        loop.close()
        raise LookupError

    def sound(loop, near, far):
        far.send(b"x")
        return near.recv(1) == b"x" and not loop.is_closed()

    probes = {"one": broken, "two": sound, "three": lambda *_: False, "four": sound}
    assert foreign.try_probes(asyncio.new_event_loop, probes) == {"two", "four"}


def test_a_signal_in_the_middle_of_a_probe_leaves_nothing_that_needs_the_loop(capfd):
    """As when the primary ends a worker that imports everycore: the SIGTERM handler raises SystemExit."""

    def interrupted(loop, near, far):
        def end():
            raise SystemExit(0)

        task = loop.create_task(loop.connect_accepted_socket(asyncio.Protocol, near))
        loop.call_soon(end)
        loop.run_until_complete(task)
        return True

    with pytest.raises(SystemExit):
        foreign.try_probes(asyncio.SelectorEventLoop, {"one": interrupted})
    gc.collect()
    assert capfd.readouterr().err == ""


def test_a_signal_waits_until_a_probe_has_ended():
    """Raised in the constructor of a loop, it would leave half a loop behind."""

    def killed(loop, near, far):
        # To this thread: a signal to the process may reach another thread of the test run.
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        seen.append("probed")
        return True

    def end(number, frame):
        seen.append("ended")
        raise SystemExit(0)

    seen: list[str] = []
    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(SystemExit):
            foreign.try_probes(asyncio.SelectorEventLoop, {"one": killed})
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["probed", "ended"]


class TestStartServing:
    """The arguments of asyncio's `_start_serving`, to which newer Pythons add some."""

    def served(self, signature, *args, **kwargs):
        """What everycore serves and what the loop itself serves, if its method has this signature."""
        ours: list[Any] = []
        own: list[Any] = []
        namespace = {"own": own}
        source = f"def _start_serving({signature}): own.append(sock)"
        exec(source, namespace)
        loop_class = type("Loop", (), {"_start_serving": namespace["_start_serving"]})

        def serve(loop, serving):
            ours.append(serving)
            return True

        asyncio_internals.on_start_serving(loop_class, serve)
        loop: Any = loop_class()
        loop._start_serving(*args, **kwargs)
        return ours, own

    OLD = "self, protocol_factory, sock, sslcontext=None, server=None, backlog=100"

    def test_they_are_read_by_name(self):
        (serving,), own = self.served(self.OLD, "factory", "sock", None, "server")
        assert (serving.factory, serving.sock, serving.server, serving.context) == (
            "factory",
            "sock",
            "server",
            None,
        )
        assert not own

    def test_python_3_15_has_a_context(self):
        (serving,), _ = self.served(f"{self.OLD}, context=None", "factory", "sock", context="copied")
        assert serving.context == "copied"

    def test_an_unknown_one_is_left_to_asyncio(self):
        signature = f"{self.OLD}, new=None"
        assert self.served(signature, "factory", "sock", new=1) == ([], ["sock"])
        (serving,), own = self.served(signature, "factory", "sock", new=None)
        assert serving.sock == "sock"
        assert not own

    def test_this_pythons_are_known(self):
        loop_class: Any = asyncio.SelectorEventLoop
        assert set(inspect.signature(loop_class._start_serving).parameters) <= asyncio_internals._KNOWN


def test_accepting_without_an_object_and_with_one_are_the_same():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for accept in (socket_internals.accept, socket_internals._accept_by_object):
            with socket.create_connection(listener.getsockname()) as client:
                fd, peer = accept(listener)
                with socket.socket(fileno=fd) as conn:
                    assert peer == client.getsockname() == conn.getpeername()


def test_a_probe_of_uvicorn_leaves_its_loggers_alone_and_logs_nothing():
    source = """
        import logging
        handler = logging.StreamHandler()
        for name in ("uvicorn", "uvicorn.access", "uvicorn.error"):
            logging.getLogger(name).addHandler(handler)
            logging.getLogger(name).setLevel(logging.INFO)
        from everycore.foreign import uvicorn_internals
        assert uvicorn_internals.capabilities().handover
        assert logging.getLogger("uvicorn.access").handlers == [handler]
    """
    argv = [sys.executable, "-c", textwrap.dedent(source)]
    assert subprocess.run(argv, stderr=subprocess.PIPE, check=True).stderr == b""


@pytest.mark.parametrize(("http", "known"), [("h11", True), ("httptools", True), ("asyncio:Protocol", False)])
def test_only_protocols_that_we_know_are_looked_into(http, known):
    config = uvicorn.Config(lambda scope, receive, send: None, http=http, log_config=None)
    config.load()
    assert uvicorn_internals.is_known(config) is known


@pytest.fixture
def uvicorn_as_it_was(monkeypatch):
    """uvicorn's own functions, restored after a test that has replaced them."""
    modules = [
        importlib.import_module(f"uvicorn.protocols.http.{name}") for name in ("h11_impl", "httptools_impl")
    ]
    for module in modules:
        for name in ("get_local_addr", "get_remote_addr"):
            monkeypatch.setattr(module, name, getattr(module, name))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_addresses_of_transports_are_those_that_uvicorn_asks_the_kernel_for(
    family, http, tmp_path, uvicorn_as_it_was
):
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(app, http=http, lifespan="off", log_config=None, ws="none", proxy_headers=False)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.socket(family) as listener:
        listener.bind(
            {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}.get(family, str(tmp_path / "s"))
        )
        name = listener.getsockname()
        await server.startup(sockets=[listener])

        async def ask():
            with socket.socket(family) as client:
                client.connect(listener.getsockname())
                client.setblocking(False)
                client.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
                await asyncio.get_running_loop().sock_recv(client, 100)
                mine = client.getsockname()
            return scopes[-1]["client"], scopes[-1]["server"], mine

        client, address, mine = await ask()
        uvicorn_internals.use_transport_addresses(config)
        cheap = await ask()
        await server.shutdown()
    if family == socket.AF_UNIX:
        assert cheap == (client, address, mine)
    else:
        assert client != cheap[0] == cheap[2][:2]  # another client
        assert cheap[1] == address == name[:2]


@pytest.mark.slow
@pytest.mark.parametrize("without", ["", "all"])
def test_a_worker_from_a_mold_begins_anew(without):
    """With and without the private parts, its key is its own, and it can share memory by name."""
    source = """
        import multiprocessing, os, threading, uuid
        from multiprocessing import resource_tracker, shared_memory
        from everycore.foreign import multiprocessing_internals, threading_internals, uuid_internals

        resource_tracker.ensure_running()
        key = bytes(multiprocessing.current_process().authkey)
        tracker = resource_tracker._resource_tracker._pid
        if os.fork():
            raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
        for module in (multiprocessing_internals, uuid_internals):
            module.renew()
        threading_internals.renew_main_thread()
        assert bytes(multiprocessing.current_process().authkey) != key
        assert uuid.uuid1() != uuid.uuid1()
        memory = shared_memory.SharedMemory(create=True, size=10)
        memory.close()
        memory.unlink()
        if not os.environ["EVERYCORE_WITHOUT"]:
            assert threading.main_thread().native_id == os.getpid()
            assert resource_tracker._resource_tracker._pid != tracker
    """
    env = os.environ | {foreign.VARIABLE: without}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(source)], env=env, check=False)
    assert done.returncode == 0
