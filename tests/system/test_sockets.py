"""The primary's sockets: binding, pausing, adopting; errors as without a cluster."""

import errno
import os
import socket
import stat

import pytest

from everycore.system import sockets
from everycore.system.listeners import DatagramSocket, StreamListener
from everycore.system.sockets import adopt, bind, bind_unix, describe

LOCAL = "127.0.0.1"


@pytest.fixture
def listener():
    made = StreamListener.bound((LOCAL, 0), family=socket.AF_INET, v6only=True, backlog=16)
    yield made
    made.close()


@pytest.fixture
def unix(tmp_path):
    made = StreamListener.bound(str(tmp_path / "socket"), family=socket.AF_UNIX, v6only=True, backlog=16)
    yield made
    made.close()


def is_refused(listener):
    """Whether the kernel refuses a connection to it."""
    with socket.socket(listener.family) as client:
        try:
            client.connect(listener.real)
        except ConnectionRefusedError:
            return True
        return False


def fails(number):
    """The block raises an OSError with that errno and everything that a person wants to know."""
    return pytest.raises(OSError, check=lambda error: error.errno == number)


class TestBind:
    @pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, LOCAL), (socket.AF_INET6, "::1")])
    def test_a_free_port_is_pinned(self, family, host):
        """Otherwise it would be lost at the first pause: the kernel keeps only ports bound by number."""
        with bind((host, 0), family=family, kind=socket.SOCK_STREAM) as sock:
            port = sock.getsockname()[1]
            assert port > 0
            for _ in range(3):
                sock.listen(1)
                sockets.suspend(sock)
                with fails(errno.EADDRINUSE), socket.socket(family) as other:
                    other.bind((host, port))
            assert sock.getsockname()[1] == port

    def test_a_fixed_port(self):
        with bind((LOCAL, 0), family=socket.AF_INET, kind=socket.SOCK_STREAM) as sock:
            port = sock.getsockname()[1]
        with bind((LOCAL, port), family=socket.AF_INET, kind=socket.SOCK_STREAM) as sock:
            assert sock.getsockname() == (LOCAL, port)

    def test_a_port_in_use_shows_at_listen_with_its_address(self):
        with socket.create_server((LOCAL, 0)) as taken:
            address = taken.getsockname()
            with pytest.raises(
                OSError, match=f"cannot listen on 127.0.0.1:{address[1]}: Address already"
            ) as caught:
                made = StreamListener.bound(address, family=socket.AF_INET, v6only=True, backlog=1)
                made.listen()
            assert caught.value.errno == errno.EADDRINUSE

    @pytest.mark.parametrize(
        ("address", "family", "number"),
        [
            (("192.0.2.1", 0), socket.AF_INET, errno.EADDRNOTAVAIL),
            ((LOCAL, 65536), socket.AF_INET, errno.EINVAL),
            ((LOCAL, -1), socket.AF_INET, errno.EINVAL),
            (("2001:db8::1", 0), socket.AF_INET6, errno.EADDRNOTAVAIL),
        ],
    )
    def test_an_address_that_cannot_be(self, address, family, number):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with fails(number) as caught:
                bind(address, family=family, kind=kind)
            assert describe(address, family) in str(caught.value)

    @pytest.mark.parametrize("v6only", [True, False])
    def test_v6only(self, v6only):
        with bind(("::", 0), family=socket.AF_INET6, kind=socket.SOCK_STREAM, v6only=v6only) as sock:
            sock.listen(1)
            with socket.socket(socket.AF_INET) as client:
                refused = client.connect_ex((LOCAL, sock.getsockname()[1])) == errno.ECONNREFUSED
            assert refused is v6only


class TestDescribe:
    @pytest.mark.parametrize(
        ("address", "family", "text"),
        [
            ((LOCAL, 80), socket.AF_INET, "127.0.0.1:80"),
            (("", 80), socket.AF_INET, "0.0.0.0:80"),
            (("", 80), socket.AF_INET6, "[::]:80"),
            (("::1", 80, 0, 0), socket.AF_INET6, "[::1]:80"),
            ("/run/x", socket.AF_UNIX, "/run/x"),
            (b"/run/x", socket.AF_UNIX, "/run/x"),
            ("\0name", socket.AF_UNIX, "@name"),
            (b"\0name", socket.AF_UNIX, "@name"),
        ],
        ids=["ipv4", "every-ipv4", "every-ipv6", "ipv6", "path", "bytes", "abstract", "abstract-bytes"],
    )
    def test_as_an_operator_writes_it(self, address, family, text):
        assert describe(address, family) == text


class TestPausing:
    def test_it_refuses_keeps_the_port_and_listens_again(self, listener):
        for _ in range(3):
            assert is_refused(listener)
            listener.listen()
            listener.listen()
            assert not is_refused(listener)
            listener.suspend()
            listener.suspend()
            with fails(errno.EADDRINUSE), socket.socket() as other:
                other.bind(listener.real)
        assert listener.sock.getsockname() == listener.real

    def test_connections_in_the_backlog_are_reset(self, listener):
        listener.listen()
        with socket.create_connection(listener.real) as client:
            listener.suspend()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        listener.listen()
        with pytest.raises(BlockingIOError):
            listener.sock.accept()

    def test_an_adopted_one_must_not_be_silenced(self):
        with socket.create_server((LOCAL, 0)) as given:
            made = StreamListener.adopted(given.fileno(), backlog=16, internal=())
            made.listen()
            made.suspend()
            assert not is_refused(made)
            made.close()
            given.setblocking(True)
            given.accept()[0].close()

    def test_a_unix_one_keeps_its_file_and_is_bound_again(self, unix):
        for _ in range(3):
            unix.listen()
            assert not is_refused(unix)
            unix.suspend()
            assert stat.S_ISSOCK(os.lstat(unix.path).st_mode)
            assert is_refused(unix)
        unix.close()
        assert not os.path.lexists(unix.path)

    def test_closing_a_paused_unix_one_removes_its_file(self, unix):
        unix.listen()
        unix.suspend()
        unix.close()
        assert not os.path.lexists(unix.path)


class TestUnix:
    @pytest.mark.parametrize("length", [107, 108, 109, 250])
    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
    def test_a_path_of_any_length(self, tmp_path, length, kind):
        folder = tmp_path / ("d" * 60)
        if length > 150:
            folder /= "e" * 60
        folder.mkdir(parents=True)
        path = str(folder / "s")
        path += "s" * max(length - len(path), 0)
        with bind_unix(path, kind=kind) as sock:
            assert stat.S_ISSOCK(os.lstat(path).st_mode)
            if kind == socket.SOCK_STREAM:
                sock.listen(1)
                folder_fd = os.open(folder, os.O_PATH)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(f"/proc/self/fd/{folder_fd}/{os.path.basename(path)}")
                os.close(folder_fd)
        # Dead now, and this user's: replaced.
        before = os.lstat(path)
        bind_unix(path, kind=kind).close()
        assert os.lstat(path).st_ctime_ns > before.st_ctime_ns

    def test_a_name_longer_than_can_be_helped(self, tmp_path):
        with fails(errno.ENAMETOOLONG):
            bind_unix(str(tmp_path / ("s" * 108)))

    @pytest.mark.parametrize("mode", [0o600, 0o622, 0o777, 0o000])
    def test_mode_and_the_umask_as_before(self, tmp_path, mode):
        before = os.umask(0o027)
        try:
            path = str(tmp_path / "socket")
            bind_unix(path, mode=mode).close()
            assert stat.S_IMODE(os.lstat(path).st_mode) == mode
            assert os.umask(0o027) == 0o027
        finally:
            os.umask(before)

    def test_an_abstract_name_has_no_file(self):
        name = f"\0everycore-test-{os.getpid()}"
        with bind_unix(name) as sock:
            assert sock.getsockname() == name.encode()
            with fails(errno.EADDRINUSE) as caught:
                bind_unix(name)
            assert "@everycore-test" in str(caught.value)
        made = StreamListener.bound(name, family=socket.AF_UNIX, v6only=True, backlog=1)
        assert made.real == name
        made.listen()
        made.suspend()
        made.listen()
        made.close()

    def test_a_file_that_is_another_s_by_now_is_not_removed(self, tmp_path, unix):
        os.unlink(unix.path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(unix.path)
            unix.close()
            assert os.path.lexists(unix.path)

    def test_absolute_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert sockets.absolute_path("a/../b") == str(tmp_path / "b")
        assert sockets.absolute_path(b"b") == str(tmp_path / "b")
        assert sockets.absolute_path(tmp_path / "b") == str(tmp_path / "b")
        assert sockets.absolute_path("\0b") == "\0b"
        assert sockets.absolute_path(b"\0b") == "\0b"


class TestAdopt:
    def test_a_duplicate_of_a_bound_socket(self):
        with socket.create_server((LOCAL, 0)) as given:
            with adopt(given.fileno(), kind=socket.SOCK_STREAM, internal=()) as copy:
                assert copy.getsockname() == given.getsockname()
                assert copy.fileno() != given.fileno()
                assert not copy.get_inheritable()
            assert given.fileno() >= 0

    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
    def test_errors_name_the_descriptor_and_the_reason(self, kind):
        other = socket.SOCK_DGRAM if kind == socket.SOCK_STREAM else socket.SOCK_STREAM
        left, right = socket.socketpair(type=kind)
        file = os.memfd_create("file")
        with left, right, socket.socket(type=kind) as unbound, socket.socket(type=other) as wrong:
            wrong.bind((LOCAL, 0))
            cases = [
                (file, errno.ENOTSOCK, "not a socket"),
                (wrong.fileno(), errno.EPROTOTYPE, other.name),
                (left.fileno(), errno.EISCONN, "connected"),
                (unbound.fileno(), errno.EDESTADDRREQ, "not bound"),
                (999_999, errno.EBADF, "not open"),
                (-1, errno.EBADF, "not open"),
                (1 << 40, errno.EBADF, "not open"),
            ]
            for fd, number, reason in cases:
                with fails(number) as caught:
                    adopt(fd, kind=kind, internal=())
                assert f"descriptor {fd}" in str(caught.value)
                assert reason in str(caught.value)
        os.close(file)

    def test_our_own_are_refused(self, listener):
        with fails(errno.EBADF) as caught:
            adopt(listener.sock.fileno(), kind=socket.SOCK_STREAM, internal={listener.sock.fileno()})
        assert "everycore itself" in str(caught.value)

    def test_datagrams(self):
        with socket.socket(type=socket.SOCK_DGRAM) as given:
            given.bind((LOCAL, 0))
            made = DatagramSocket.adopted(given.fileno(), backlog=0, internal=())
            made.listen()
            made.suspend()
            assert made.real == given.getsockname()
            made.close()
