"""How `--engine hypercorn` handles the options that uvicorn has too, and which ones it refuses."""

from typing import Any

import pytest
from hypercorn.config import Config

from everycore.cli.answers import ANSWERS
from everycore.cli.options import own_fields, taken
from everycore.errors import ConfigurationError
from everycore.servers.engine_options import engine_fields
from everycore.servers.hypercorn_options import (
    MANNERS,
    attributes,
    check_option,
    hypercorn_fields,
)

ALL: dict[str, Any] = {getattr(field, "parameter", ""): field for field in hypercorn_fields(frozenset())}


def test_each_attribute_is_one_of_hypercorns():
    for name in ALL.keys() - MANNERS - {"headers", "quic_bind"}:
        (attribute, *more) = attributes({name: 1 if name != "server_names" else ("x",)})
        assert hasattr(Config, attribute)
        assert more == (["keyfile"] if name == "ssl_certfile" else [])


def test_each_option_of_uvicorn_is_there_or_refused_with_a_reason():
    refused = {}
    field: Any
    for field in engine_fields(taken(own_fields("serve")) | frozenset(ANSWERS)):
        if field.name in {known.name for known in ALL.values()}:
            check_option("hypercorn", field.option, field.parameter, "x")
            continue
        with pytest.raises(ConfigurationError) as error:
            check_option("hypercorn", field.option, field.parameter, "x")
        refused[field.name] = str(error.value)
    assert refused["ws_max_queue"] == "--ws-max-queue: hypercorn has no such option: it has no such queue"
    assert refused["http"].startswith("--http: hypercorn has no such choice: it uses h11")


@pytest.mark.parametrize("name", ["http", "ws"])
def test_an_option_left_to_the_engine_has_no_choices(name):
    check_option("hypercorn", f"--{name}", name, "auto")


def test_an_option_of_hypercorn_alone_is_refused_for_uvicorn():
    with pytest.raises(ConfigurationError, match="--read-timeout: uvicorn has no such option; --engine hyp"):
        check_option("uvicorn", "--read-timeout", "read_timeout", 3.0)
    check_option("uvicorn", "--root-path", "root_path", "/x")


def test_an_option_that_its_next_uvicorn_brings_is_uvicorns():
    with pytest.raises(ConfigurationError, match=r"--next: hypercorn has no .*: --engine uvicorn has it"):
        check_option("hypercorn", "--next", "next", 1)


def test_a_certificate_may_hold_its_key():
    assert attributes({"ssl_certfile": "a"}) == {"certfile": "a", "keyfile": "a"}
    assert attributes({"ssl_certfile": "a", "ssl_keyfile": "b"}) == {"certfile": "a", "keyfile": "b"}


def test_what_uvicorn_has_is_not_there_twice():
    assert "root_path" not in {field.name for field in hypercorn_fields(frozenset({"root_path"}))}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("headers", ["X-A: b"], ("X-A: b",)),
        ("ssl_cert_reqs", "2", 2),
        ("quic_bind", [":443"], (":443",)),
        ("h2_max_inbound_frame_size", "16384", 16384),
    ],
)
def test_values_where_uvicorn_is_not_installed(name, text, value):
    kind = ALL[name].setting.kind
    read = kind.from_texts if isinstance(text, list) else kind.from_text
    assert read(text) == value


@pytest.mark.parametrize(
    ("name", "text"), [("headers", "x"), ("headers", "a: \u20ac"), ("ssl_cert_reqs", "3")]
)
def test_wrong_values_where_uvicorn_is_not_installed(name, text):
    with pytest.raises(ValueError, match="must be"):
        ALL[name].setting.kind.from_key(text)
