"""The index of messages: what counts as one, and that each has a line that says what to do."""

import importlib.util
import sys
from textwrap import dedent

import pytest

from tests.kit.folders import ROOT


@pytest.fixture(scope="module")
def messages():
    """The script, as a module."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        found = importlib.util.spec_from_file_location("make_messages", ROOT / "docs/make_messages.py")
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules["make_messages"] = module  # dataclasses looks there
        found.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "docs"))
        sys.modules.pop("make_messages", None)


@pytest.mark.parametrize(
    ("code", "section", "text", "label"),
    [
        ('log.warning("worker %d: %s; %.1f s", 1, 2, 3)', "log", "worker …: …; … s", "warning"),
        ('log.exception("a step failed")', "log", "a step failed", "error"),
        ('log.log(level, "served anyway")', "log", "served anyway", "warning"),
        ('def f(): return logging.ERROR, (f"slot {a}" f" failed")', "log", "slot … failed", "error"),
        ('raise CannotBootError(f"no module {name!r}")', "start", "no module …", ""),
        ('raise ControlError("busy", "come again")', "control", "come again", "busy"),
        ('raise ConfigurationError("--pid", "names " + it)', "settings", "names …", "--pid"),
        ('raise ConfigurationError(option, f"{x}{y} is wrong")', "settings", "… is wrong", "…"),
    ],
)
def test_a_message_is_found(messages, code, section, text, label):
    assert list(messages.found_in(code)) == [messages.Found(section, text, label)]


@pytest.mark.parametrize(
    "code",
    [
        'log.debug("for developers")',
        'log.info("%s", text)',
        'raise ConfigurationError("--pid", problem)',
        'raise ValueError("of a program, not of its operator")',
        "def f(): return ()",
        'def f(): return logging.DEBUG, f"giving up: {why}"',
    ],
)
def test_texts_for_developers_and_texts_made_elsewhere_are_left_out(messages, code):
    assert list(messages.found_in(code)) == []


def test_both_texts_of_a_choice_are_messages(messages):
    code = 'raise ConfigurationError("listen", "not both" if fd else "needs one")'
    assert [each.text for each in messages.found_in(code)] == ["not both", "needs one"]


def test_what_has_no_line_and_lines_without_a_text_are_told(messages):
    code = """
        log.error("the first")
        log.error("the second of all")
        log.error("the third")
    """
    found = list(messages.found_in(dedent(code)))
    advice = {"log": {"the first": "look", "the second*": "wait", "the": "no rule", "gone": "nothing"}}
    assert [each.text for each in messages.unanswered(found, advice)] == ["the third"]
    assert messages.unused(found, advice) == ["log: the", "log: gone"]


def test_every_message_has_its_line(messages):
    """The drawing fails for the same reason; here the text says which message."""
    found, advice = messages.every(), messages.read_advice()
    assert len(found) > 150
    assert [(each.section, each.text) for each in messages.unanswered(found, advice)] == []
    assert messages.unused(found, advice) == []
