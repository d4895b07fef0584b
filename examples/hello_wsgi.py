"""The same as hello.py for WSGI:  everycore serve --app-dir examples hello_wsgi:app"""

import os

import everycore


def app(environ, start_response):
    worker = everycore.current_worker()
    body = f"hello from worker {worker.id} (process {os.getpid()})\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
