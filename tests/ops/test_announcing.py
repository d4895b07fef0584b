"""What systemd is told about a service, with a pool without processes and a socket of the test."""

import asyncio
import os
import re
import socket
import time

import pytest

from everycore import ConfigurationError, Pool, ReloadFailed
from everycore.ops.announcing import Announcer
from everycore.testing import FakeWorkers, VirtualTimeLoop, settle
from tests.kit import pass_time


@pytest.fixture(autouse=True)
def loop_factory():
    return VirtualTimeLoop


@pytest.fixture
def workers():
    with FakeWorkers() as workers:
        yield workers


class Manager:
    """systemd's end of the notification socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def told(self) -> list[str]:
        """The messages since the last call."""
        found = []
        while True:
            try:
                found.append(self._sock.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def manager(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield Manager(sock)


async def test_a_life(workers, manager):
    pool = Pool(2)
    announcer = Announcer(pool, "shop")
    assert "NOTIFY_SOCKET" not in os.environ
    async with pool:
        announcer.begin()
        await settle()
        assert manager.told() == [
            "READY=1\nSTATUS=shop: 1 of 2 workers ready",
            "STATUS=shop: 2 of 2 workers ready",
        ]
        before = time.monotonic_ns() // 1000
        await pool.reload()
        began, *_, ended = manager.told()
        found = re.fullmatch(
            r"RELOADING=1\nMONOTONIC_USEC=(\d+)\nSTATUS=shop: 2 of 2 workers ready; reloading", began
        )
        assert found is not None
        assert before <= int(found[1]) <= time.monotonic_ns() // 1000
        assert ended == "READY=1\nSTATUS=shop: 2 of 2 workers ready"
        announcer.stopping()
        announcer.stopping()
        assert manager.told() == ["STOPPING=1\nSTATUS=shop: stopping"]
    announcer.close()
    assert manager.told() == []  # nothing follows STOPPING


async def test_a_reload_that_fails_is_over_too(workers, manager):
    pool = Pool(1)
    announcer = Announcer(pool, "shop")
    async with pool:
        announcer.begin()
        await settle()
        manager.told()
        workers._life = None
        reload = asyncio.create_task(pool.reload())
        await settle()
        workers.all[-1].exit(1)
        with pytest.raises(ReloadFailed):
            await reload
        told = manager.told()
        assert told[0].startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert "READY=1\nSTATUS=shop: 1 of 1 workers ready; the last reload failed" in told
    announcer.close()


async def test_a_reload_that_is_refused_has_begun_and_ended(workers, manager):
    """With `Type=notify-reload`, systemd has sent SIGHUP and waits for both."""

    def refuse() -> None:
        raise ConfigurationError("--grace", "must be 3")

    pool = Pool(1, before_reload=refuse)
    announcer = Announcer(pool, "shop")
    async with pool:
        announcer.begin()
        await settle()
        manager.told()
        with pytest.raises(ReloadFailed):
            await pool.reload()
        began, ended = manager.told()
        assert began.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert ended.startswith("READY=1\n")
    announcer.close()


async def test_the_watchdog_is_fed_twice_within_its_time(workers, manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    pool = Pool(1)
    announcer = Announcer(pool, "shop")
    async with pool:
        announcer.begin()
        await pass_time(21)
        assert manager.told().count("WATCHDOG=1") == 5
    announcer.close()


async def test_nobody_asks(workers, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    pool = Pool(1)
    announcer = Announcer(pool, "shop")
    async with pool:
        announcer.begin()
        await settle()
    announcer.close()
