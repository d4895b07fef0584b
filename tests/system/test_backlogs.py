"""The number of connections in the backlog of a listener."""

import socket

from everycore.system.backlogs import waiting_at


def test_connections_not_yet_accepted():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert waiting_at(listener) == 0
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        assert waiting_at(listener) == 3
        listener.accept()[0].close()
        assert waiting_at(listener) == 2
        for client in clients:
            client.close()


def test_of_others_it_is_not_told(tmp_path):
    with socket.socket(socket.AF_UNIX) as unix, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        unix.bind(str(tmp_path / "s"))
        unix.listen()
        assert waiting_at(unix) is None
        assert waiting_at(datagrams) is None
