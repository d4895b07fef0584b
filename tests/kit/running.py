"""Programs under `everycore run`, and what they print.

running = run(start_command, tmp_path, source)          # two workers
port = running.port()
running.everybody_answers(port)
assert running.program.finish() == 0
"""

import os
import re
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit import Program, scaled

#: A server that answers a line with the number of its process.
ANSWER = """
import asyncio, os, signal, socket, sys, threading

async def answer(reader, writer):
    await reader.readline()
    writer.write(b"%d\\n" % os.getpid())
    await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        await server.serve_forever()
"""


def command(
    *program: str, workers: int = 2, options: Sequence[str] = (), flags: Sequence[str] = ()
) -> list[str]:
    """The command line of `everycore run`, with this interpreter."""
    head = [sys.executable, *flags, "-m", "everycore", "run", "--workers", str(workers)]
    return [*head, *options, *program]


@dataclass
class Running:
    """A program in its workers."""

    program: Program
    workers: int

    def listens(self) -> str:
        """The next address on which it listens, as the log has it, without tcp://."""
        return self.program.expect(r"listens on (?:tcp|udp|unix):(?://)?(.+)", stream="stderr")[1]

    def port(self) -> int:
        """The port of the next address on which it listens, once all workers are ready."""
        address = self.listens()
        self.ready()
        return int(address.rpartition(":")[2])

    def ready(self) -> None:
        self.program.expect(f"ready: all {self.workers} workers", stream="stderr")

    def everybody_answers(self, port: int | str, **how: Any) -> set[str]:
        """Ask until every worker has answered. This does not return for a server that omits one."""
        seen: set[str] = set()
        while len(seen) < self.workers:
            seen.add(ask(port, **how))
        return seen


def run(
    start_command: Any,
    folder: Path,
    source: str,
    *args: str,
    workers: int = 2,
    options: Sequence[str] = (),
    flags: Sequence[str] = (),
    env: Mapping[str, str | None] | None = None,
) -> Running:
    """Start `source` (dedented, a file in `folder`) under `everycore run`."""
    path = folder / "server.py"
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    argv = command("server.py", *args, workers=workers, options=options, flags=flags)
    return Running(start_command(argv, env=env, cwd=folder), workers)


def ask(port: int | str, *, tls: bool = False, host: str = "127.0.0.1", request: str = "hello") -> str:
    """The answer to a line, over a new connection. `port`: a number, or the path of a unix socket."""
    if isinstance(port, str):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(scaled(20))
        try:
            sock.connect(port)
        except OSError:
            sock.close()
            raise
    else:
        sock = socket.create_connection((host, port), timeout=scaled(20))
    with sock:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            sock = context.wrap_socket(sock)
        with sock:
            sock.sendall(f"{request}\n".encode())
            return b"".join(iter(lambda: sock.recv(4096), b"")).decode().strip()


def ask_http(port: int) -> str:
    """The body of the answer to an HTTP request."""
    head, _, body = ask(port, request="GET / HTTP/1.0\r\n\r").partition("\r\n\r\n")
    assert re.match(r"HTTP/1.[01] 200", head), head
    return body.strip()


def everybody_answers_http(running: Running, port: int) -> None:
    seen: set[str] = set()
    while len(seen) < running.workers:
        seen.add(ask_http(port))


def make_certificate(folder: Path) -> str:
    """A file with a new key and a certificate for localhost."""
    path = str(folder / "localhost.pem")
    argv = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    files = ["-subj", "/CN=localhost", "-keyout", path, "-out", f"{path}.crt"]
    subprocess.run([*argv.split(), *files], check=True, capture_output=True)
    with open(path, "ab") as file:
        file.write(Path(path + ".crt").read_bytes())
    os.unlink(path + ".crt")
    return path


def alone(
    folder: Path, *program: str, flags: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """What python alone does: exit status, stdout, stderr."""
    result = subprocess.run(
        [sys.executable, *flags, *program],
        cwd=folder,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=scaled(60),
    )
    return result.returncode, result.stdout, result.stderr
