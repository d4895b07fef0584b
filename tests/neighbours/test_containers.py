"""The files for containers: they fit their schemas, and what they start."""

import json
import os
import re
import shlex
import signal
import sys
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.kit import wait_gone
from tests.kit.json_schema import faults, load
from tests.kit.neighbours import DEPLOY, found, get, wait_listening
from tests.kit.ports import free_port


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def of_kubernetes(document: Any) -> list[str]:
    schema = load("kubernetes")
    return list(faults(document, schema[document["kind"]], schema))


def of_compose(document: Any) -> list[str]:
    return list(faults(document, load("compose"), load("compose")))


def test_kubernetes_knows_all_of_it():
    kinds = documents("kubernetes.yaml")
    assert [document["kind"] for document in kinds] == ["Deployment", "Service"]
    assert [of_kubernetes(document) for document in kinds] == [[], []]


def test_compose_knows_all_of_it():
    (document,) = documents("compose.yaml")
    assert of_compose(document) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.template.spec.terminationGracePeriod", 45),
        ("spec.template.spec.terminationGracePeriodSeconds", "45s"),
        ("spec.template.spec.containers.0.readinessProbe.httpGet.paths", "/"),
        ("spec.replicas", True),
    ],
)
def test_what_kubernetes_does_not_know_is_found(path, value):
    document = documents("kubernetes.yaml")[0]
    *steps, last = path.split(".")
    inner = document
    for step in steps:
        inner = inner[int(step) if step.isdigit() else step]
    inner[last] = value
    (fault,) = of_kubernetes(document)
    assert last in fault


@pytest.mark.parametrize("change", [{"stop_grace_perod": "45s"}, {"read_only": [1]}, {"ports": "8000"}])
def test_what_compose_does_not_know_is_found(change):
    (document,) = documents("compose.yaml")
    document["services"]["shop"].update(change)
    assert of_compose(document)


def test_the_parts_name_each_other():
    """Labels and ports, which a schema does not check."""
    deployment, service = documents("kubernetes.yaml")
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    command = container["command"]
    for option, name in (("--bind", "http"), ("--metrics", "metrics")):
        assert command[command.index(option) + 1] == f"0.0.0.0:{ports[name]}"
    probes = [container[probe]["httpGet"] for probe in ("startupProbe", "readinessProbe")]
    assert probes == [{"path": "/ready", "port": "metrics"}] * 2
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]


def test_process_1_of_the_image_is_everycore():
    """A shell in between would not pass SIGTERM on."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    assert json.loads(command)[:2] == ["everycore", "serve"]
    (port,) = re.findall(r"^EXPOSE (\d+)$", text, re.MULTILINE)
    (service,) = documents("compose.yaml")[0]["services"].values()
    assert f"0.0.0.0:{port}" in shlex.join(json.loads(command))
    assert service["ports"] == [f"{port}:{port}"]


@pytest.mark.slow
@pytest.mark.ci_only
@pytest.mark.limit(60)
def test_a_life_as_process_1_on_a_root_that_cannot_be_written(start_command):
    """As in the image, but without it: in namespaces, with a read-only file system except for /tmp."""
    if os.geteuid() != 0:
        pytest.skip("namespaces of its own need root")
    port = free_port()
    (command,) = re.findall(r"^CMD (.*)$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    own = [word.replace("0.0.0.0:8000", f"127.0.0.1:{port}") for word in json.loads(command)[1:]]
    everycore = shlex.join([sys.executable, "-m", "everycore", *own])
    run = f"mount -o remount,bind,ro / && cd {DEPLOY} && exec {everycore}"
    argv = [found("unshare"), "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", run]
    program = start_command(argv)
    wait_listening(program, port)
    program.expect("ready: all", stream="stderr")
    assert get(port)[0] == 200
    (first,) = [pid for pid in program.descendants() if _is_first(pid)]
    os.kill(first, signal.SIGTERM)
    assert program.wait() == 0
    assert wait_gone([first]) == []
    assert "Read-only file system" not in program.stderr


def _is_first(pid: int) -> bool:
    """Whether it is process 1 of its namespace."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        (numbers,) = [line.split()[1:] for line in file if line.startswith("NSpid:")]
    return len(numbers) > 1 and numbers[-1] == "1"
