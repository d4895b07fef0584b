"""Workers of another user: what the primary gives them, and what it refuses.

Another user may be unable to run the interpreter. So the primary only claims to be another user at the
moment of the fork; the worker, its requests and the answers are real.
"""

import contextlib
import errno
import os
import socket

import pytest

from everycore import Cluster, ConfigurationError, Settings
from tests.kit.listeners import listening_sockets
from tests.kit.ports import free_port
from tests.kit.traffic import AGENT, Agent, Client
from tests.kit.workers import within, worker_script

pytestmark = [pytest.mark.slow, pytest.mark.limit(30)]


@contextlib.asynccontextmanager
async def foreigner(folder, *addresses):
    """A worker of another user that may listen on these addresses."""
    settings = Settings(exec=worker_script(folder, AGENT), uid=os.getuid(), addresses=addresses)
    async with Cluster(settings, grace=2.0) as cluster:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
            agent = Agent(cluster.fork())
        yield agent


async def test_it_listens_on_what_is_named_and_on_nothing_else(tmp_path):
    port, other = free_port(), free_port()
    async with foreigner(tmp_path, ("127.0.0.1", port)) as agent:
        await agent.serve(port)
        client = await Client.connect(("127.0.0.1", port))
        await client.close()
        for wanted in (other, 0):
            error = await agent.fails("await asyncio.start_server(greet, '127.0.0.1', port)", port=wanted)
            assert (error.classes[0], error.errno) == ("PermissionError", errno.EACCES)
        error = await agent.fails("everycore.listen(('127.0.0.1', port))", port=other)
        assert error.errno == errno.EACCES
        assert f"127.0.0.1:{other}" in error.text
        assert "`addresses` (--permit) lacks this one" in error.text
        assert listening_sockets(other) == []


async def test_its_own_sockets_are_its_own_affair(tmp_path):
    async with foreigner(tmp_path) as agent:
        await agent.do("sock = everycore.listen(('127.0.0.1', 0), exclusive=True)")
        await agent.do("sock.close()")


async def test_paths_and_descriptors(tmp_path):
    named, other = tmp_path / "named.sock", tmp_path / "other.sock"
    with socket.create_server(("127.0.0.1", 0)) as allowed, socket.create_server(("127.0.0.1", 0)) as secret:
        async with foreigner(tmp_path, named, allowed.fileno()) as agent:
            await agent.do("one = everycore.listen(path)", path=str(named))
            await agent.do("two = everycore.listen(fd=fd)", fd=allowed.fileno())
            for code in ("everycore.listen(path)", "everycore.listen(fd=fd)"):
                error = await agent.fails(code, path=str(other), fd=secret.fileno())
                assert error.errno == errno.EACCES
            assert not other.exists()


async def test_a_program_that_knows_nothing_of_us_can_not_go_round_it(tmp_path):
    """Its `bind` sends the path as the program has it, and the folder to which it is relative."""
    named = tmp_path / "named.sock"
    async with foreigner(tmp_path, named) as agent:
        await agent.do(
            """
from everycore.core import wire
def ask(address, folder, name):
    with socket.socket(socket.AF_UNIX) as sock:
        inside._membership.link.request(wire.Bind(address, 0o700, folder, name), fd=sock.fileno())
"""
        )
        path, here = str(named).encode(), str(tmp_path).encode()
        error = await agent.fails("ask(path, here, b'elsewhere.sock')", path=path, here=here)
        assert error.errno == errno.EACCES
        await agent.do("ask(path, here, b'named.sock')", path=path, here=here)
        assert {name for name in os.listdir(tmp_path) if name.endswith(".sock")} == {"named.sock"}


async def test_a_worker_of_the_same_user_asks_for_anything(tmp_path):
    script = worker_script(tmp_path, AGENT)
    async with Cluster(Settings(exec=script, uid=os.geteuid(), addresses=[]), grace=2.0) as cluster:
        await within(Agent(cluster.fork()).serve())


@pytest.mark.parametrize(
    "addresses",
    [["localhost"], [("localhost", 80)], [""], [True], [("127.0.0.1", "80")], "127.0.0.1", [None]],
)
def test_malformed_addresses(addresses):
    if addresses == ["localhost"]:
        assert Settings(addresses=addresses).addresses == ["localhost"]  # the path of a unix socket
        return
    with pytest.raises(ConfigurationError, match="addresses"):
        Settings(addresses=addresses)
