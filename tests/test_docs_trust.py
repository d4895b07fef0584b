"""Who trusts whom: each sentence of the page has a number, and tests that are there.

A sentence without a number, a number without a test, and a test that is gone are faults. What the sentences
say of numbers of the source is compared with these.
"""

import ast
import functools
import importlib
import re

import pytest

from tests.kit.folders import ROOT

PAGE = ROOT / "docs" / "explanation" / "trust.md"
TESTS = "The tests"
#: This section is about others: the kernel, the service manager, the program.
NOT_OURS = "What is not covered"

_NUMBER = re.compile(r"\[([TPSOUC]\d+)\]")


def sections(text):
    """The text below each heading; the key of the text before the first one is ""."""
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[0::2], strict=True))


def claims(text):
    """The sentences of a section: of its paragraphs, of its lists, and the rows of its tables."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip().splitlines()
        if lines and lines[0].startswith("|"):
            found += [row for row in lines[2:] if row.startswith("|")]
            continue
        joined = " ".join(line.strip() for line in lines if not line.startswith("# "))
        for point in re.split(r"(?:^|\s)\* ", joined):
            found += [part.strip() for part in re.split(r"(?<=[.:])\s+(?=[A-Z`])", point) if part.strip()]
    return [claim for claim in found if _NUMBER.search(claim) or not claim.endswith(":")]


@functools.cache
def rows():
    text = sections(PAGE.read_text(encoding="utf-8"))[TESTS]
    pairs = re.findall(r"^\| ([A-Z]\d+) \| (.*?) ?\|$", text, flags=re.MULTILINE)
    return {number: re.findall(r"`([^`]+)`", names) for number, names in pairs}


@functools.cache
def functions_of(path):
    tree = ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def all_claims():
    return [
        claim
        for heading, text in sections(PAGE.read_text(encoding="utf-8")).items()
        if heading not in (TESTS, NOT_OURS)
        for claim in claims(text)
    ]


#: Sentences that say what the page is, or what follows from others, or what an operator may do.
EXPLANATIONS = (
    "A primary and its workers are separate",
    "This page says",
    "Each sentence has a number",
    "Every worker trusts the primary",
    "It can end its own service",
    "Workers of one user are protected",
    "No program can change that",
    "That is what sharing means",
    "A primary that starts as root",
    "So a client can do",
    "Messages are plain values;",
    "It has nothing of the application",
    "A worker of the same user could write",
    "The board is the page",
)


def test_each_sentence_has_a_number():
    without = [claim for claim in all_claims() if not _NUMBER.search(claim)]
    assert [claim for claim in without if not claim.startswith(EXPLANATIONS)] == []


def test_each_number_has_tests_and_is_that_of_one_sentence():
    numbers = [number for claim in all_claims() for number in _NUMBER.findall(claim)]
    assert len(numbers) == len(set(numbers))
    assert sorted(numbers) == sorted(rows())
    assert all(rows().values())


@pytest.mark.parametrize("number", rows())
def test_they_are_there(number):
    for name in rows()[number]:
        path, test = name.split("::")
        assert test in functions_of(path), name


@pytest.mark.parametrize(
    ("number", "constant"),
    [
        ("P11", "core.listeners.MOST_HELD"),
        ("P12", "primary.listeners.leftovers.MOST_KEPT"),
        ("P13", "core.window.WINDOW"),
        ("P14", "core.window.WINDOW_HANDLES"),
        ("P15", "aio.outbox.MOST_DESCRIPTORS"),
        ("P17", "primary.ipc.MOST_ASKED"),
        ("P18", "primary.linkserver.MOST_POSTPONED"),
        ("P20", "aio.channel.FRAMES_A_TURN"),
        ("P20", "primary.ipc.ANSWERS_A_TURN"),
        ("P21", "primary.telling.MOST_TOLD"),
    ],
)
def test_the_limits_are_those_of_the_source(number, constant):
    (claim,) = (claim for claim in all_claims() if f"[{number}]" in claim)
    module, _, name = constant.rpartition(".")
    value = getattr(importlib.import_module(f"everycore.{module}"), name)
    assert re.search(rf"\b{value}\b", claim), claim


def test_what_has_no_number_is_found():
    text = "It may. It is so [P1].\n\n* A point\n  of two lines\n* another [P2]\n\n| a |\n|---|\n| row |\n"
    assert [claim for claim in claims(text) if not _NUMBER.search(claim)] == [
        "It may.", "A point of two lines", "| row |",
    ]  # fmt: skip
