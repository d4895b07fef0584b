"""asyncssh: a server that answers commands."""

import asyncio
import sys

import asyncssh
from answer import slow_async, who


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False


async def handle(process):
    client = process.get_extra_info("peername")[0]
    process.stdout.write(await slow_async(client) if process.command == "slow" else who(client))
    process.exit(0)


async def main():
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with asyncssh.listen(
        "127.0.0.1", int(sys.argv[1]), server_factory=Server, server_host_keys=[key], process_factory=handle
    ):
        await asyncio.Event().wait()


asyncio.run(main())
