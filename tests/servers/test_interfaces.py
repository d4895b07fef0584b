"""ASGI or WSGI, recognized without a call."""

import functools

import pytest

from everycore.servers.interfaces import as_asgi, detect
from everycore.servers.loading import CannotBootError


async def asgi(scope, receive, send): ...


def asgi_returning_awaitable(scope, receive, send): ...


async def asgi_any(*args): ...


def wsgi(environ, start_response): ...


def wsgi_with_default(environ, start_response, debug=False): ...


class AsgiObject:
    async def __call__(self, scope, receive, send): ...

    async def method(self, scope, receive, send): ...


class WsgiObject:
    def __call__(self, environ, start_response): ...

    def method(self, environ, start_response): ...


class WsgiClass:
    """An iterable made per request, as PEP 3333 shows it."""

    def __init__(self, environ, start_response): ...


@pytest.mark.parametrize(
    "app",
    [
        asgi,
        asgi_returning_awaitable,
        asgi_any,
        AsgiObject(),
        AsgiObject().method,
        functools.partial(asgi),
        functools.partial(functools.partial(asgi)),
    ],
)
def test_asgi(app):
    assert detect(app) == "asgi"


@pytest.mark.parametrize(
    "app",
    [
        wsgi,
        wsgi_with_default,
        WsgiObject(),
        WsgiObject().method,
        WsgiClass,
        functools.partial(wsgi),
        lambda e, s: [],
    ],
)
def test_wsgi(app):
    assert detect(app) == "wsgi"


@pytest.mark.parametrize(
    ("app", "hint"),
    [
        (lambda scope: None, "ASGI 2"),
        (lambda: None, "--factory"),
        (lambda *args: None, "--interface"),
        (lambda a, b, c, d: None, "--interface"),
        (type, "--interface"),
    ],
    ids=["one", "none", "any", "four", "no signature"],
)
def test_neither(app, hint):
    with pytest.raises(CannotBootError, match=hint):
        detect(app)


async def test_asgi_2_is_served_where_it_is_named():
    class Old:
        def __init__(self, scope):
            self.scope = scope

        async def __call__(self, receive, send):
            await send([self.scope, await receive()])

    sent = []

    async def receive():
        return "body"

    async def send(message):
        sent.append(message)

    await as_asgi(Old, "asgi2")({"type": "http"}, receive, send)
    assert sent == [[{"type": "http"}, "body"]]


@pytest.mark.parametrize("interface", ["asgi", "asgi3"])
def test_asgi_is_left_as_it_is(interface):
    assert as_asgi(asgi, interface) is asgi
