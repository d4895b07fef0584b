"""In each file of examples/deploy, the stop of a service waits longer than the service may need."""

import json
import re
import shlex

import pytest
import yaml  # type: ignore[import-untyped]

from everycore.cli.options import read_values
from everycore.cli.serve import given_by, serve
from tests.kit.neighbours import DEPLOY, INSTALLED

#: Seconds to spare: for the steps in between.
SPARE = 2.0


def setting(name: str, pattern: str) -> str:
    (found,) = re.findall(pattern, (DEPLOY / name).read_text(encoding="utf-8"), re.MULTILINE)
    return str(found)


def installed(name: str, key: str) -> list[str]:
    return shlex.split(setting(name, rf"^{key}=(.*)$"))


def of_unit(name: str) -> tuple[list[str], float]:
    return installed(name, "ExecStart"), float(setting(name, r"^TimeoutStopSec=(\d+)$"))


def of_supervisord() -> tuple[list[str], float]:
    return installed("supervisord.conf", "command"), float(
        setting("supervisord.conf", r"^stopwaitsecs=(\d+)$")
    )


def of_compose() -> tuple[list[str], float]:
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"].values()
    return json.loads(setting("Dockerfile", r"^CMD (.*)$")), float(
        service["stop_grace_period"].removesuffix("s")
    )


def of_kubernetes() -> tuple[list[str], float]:
    deployment, _ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    spec = deployment["spec"]["template"]["spec"]
    return spec["containers"][0]["command"], float(spec["terminationGracePeriodSeconds"])


@pytest.mark.parametrize(
    "read",
    [
        lambda: of_unit("shop.service"),
        lambda: of_unit("shop-activated.service"),
        of_supervisord,
        of_compose,
        of_kubernetes,
    ],
    ids=["systemd", "activated", "supervisord", "compose", "kubernetes"],
)
def test_it_waits_long_enough(read):
    command, waits = read()
    assert command[0] in (INSTALLED, "everycore")
    assert command[1] == "serve"
    found = read_values(given_by(serve.make_context("serve", command[2:])), {}).found
    needs = sum(float(found[name].value) for name in ("stop_delay", "grace", "shutdown_timeout"))
    assert needs + SPARE <= waits <= needs + 15
