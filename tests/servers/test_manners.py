"""What everycore does for an engine other than uvicorn, compared with uvicorn's own answers."""

from typing import Any

import pytest
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from everycore.servers.manners import Manners

#: Never called here.
NOBODY: Any = None

CLIENTS = [("127.0.0.1", 1), ("::1", 1), ("10.1.2.3", 1), ("8.8.8.8", 1), None]
CHAINS = [None, "1.2.3.4", "1.2.3.4, 10.0.0.1", "9.9.9.9,1.2.3.4 , 10.0.0.1", "10.0.0.2, 10.0.0.1", "strange"]
TRUSTED = ["127.0.0.1", "127.0.0.1,::1", "10.0.0.0/8, 127.0.0.1", "*", "strange,10.0.0.0/8"]


def scope(client, chain, scheme=None, kind="http"):
    headers = [(b"host", b"x")]
    headers += [] if chain is None else [(b"x-forwarded-for", chain.encode())]
    headers += [] if scheme is None else [(b"x-forwarded-proto", scheme.encode())]
    first = "ws" if kind == "websocket" else "http"
    return {
        "type": kind,
        "client": client,
        "headers": headers,
        "scheme": first,
        "path": "/p",
        "raw_path": b"/p",
    }


async def served(make, given):
    seen = {}

    async def app(found, _receive, _send):
        seen.update(found)

    await make(app)(given, NOBODY, NOBODY)
    return seen


@pytest.mark.parametrize("trusted", TRUSTED)
@pytest.mark.parametrize("client", CLIENTS, ids=str)
async def test_proxy_headers_are_believed_as_uvicorn_does(trusted, client):
    for chain in CHAINS:
        for scheme in (None, "https", "wss", "gopher"):
            for kind in ("http", "websocket"):
                ours = await served(
                    lambda app: Manners(app, {"forwarded_allow_ips": trusted}),
                    scope(client, chain, scheme, kind),
                )
                theirs = await served(
                    lambda app: ProxyHeadersMiddleware(app, trusted_hosts=trusted),
                    scope(client, chain, scheme, kind),
                )
                assert ours == theirs


async def test_which_proxies_are_trusted_by_default(monkeypatch):
    asked = scope(("127.0.0.1", 1), "1.2.3.4")
    assert (await served(lambda app: Manners(app, {}), asked))["client"] == ("1.2.3.4", 0)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.1")
    asked = scope(("127.0.0.1", 1), "1.2.3.4")
    assert (await served(lambda app: Manners(app, {}), asked))["client"] == ("127.0.0.1", 1)


async def test_no_proxy_headers():
    asked = scope(("127.0.0.1", 1), "1.2.3.4", "https")
    found = await served(lambda app: Manners(app, {"proxy_headers": False}), asked)
    assert (found["client"], found["scheme"]) == (("127.0.0.1", 1), "http")


async def test_the_root_path_begins_the_path():
    found = await served(lambda app: Manners(app, {"root_path": "/api"}), scope(None, None))
    assert (found["root_path"], found["path"], found["raw_path"]) == ("/api", "/api/p", b"/api/p")


@pytest.mark.parametrize(
    ("kind", "type_"), [("http", "http.response"), ("websocket", "websocket.http.response")]
)
async def test_more_requests_at_once_than_the_limit_have_503(kind, type_):
    sent = []

    async def send(message):
        sent.append(message)

    async def ask_another(_scope, _receive, _send):
        await manners(scope(None, None, kind=kind), NOBODY, send)

    manners = Manners(ask_another, {"limit_concurrency": 1})
    await manners(scope(None, None), NOBODY, NOBODY)
    assert [(message["type"], message.get("status")) for message in sent] == [
        (f"{type_}.start", 503),
        (f"{type_}.body", None),
    ]
    sent.clear()
    await manners(scope(None, None), NOBODY, NOBODY)  # the first one is over, and makes room
    assert len(sent) == 2
