"""aiosmtpd: a handler, and its controller in a thread."""

import sys
import threading

from aiosmtpd.controller import Controller
from answer import slow_async, who


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        client = session.peer[0]
        text = await slow_async(client) if address.startswith("slow@") else who(client)
        return f"550 {text}"


controller = Controller(Handler(), hostname="127.0.0.1", port=int(sys.argv[1]))
controller.start()
try:
    threading.Event().wait()
finally:
    controller.stop()
