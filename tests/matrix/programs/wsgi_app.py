"""A WSGI application."""

from answer import slow, who


def app(environ, start_response):
    client = environ.get("REMOTE_ADDR") or "nobody"
    text = slow(client) if environ["PATH_INFO"] == "/slow" else who(client)
    body = text.encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
