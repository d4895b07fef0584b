"""Option, variable, file, default. Errors name the source of a value; unknown names are found."""

import pytest

from everycore.config.layers import File, Found, Layer, resolve, unknown_keys, unknown_variables
from everycore.config.setting import fields_of
from everycore.config.tree import RunSettings, ServeSettings
from everycore.errors import ConfigurationError

FIELDS = {"serve": fields_of(ServeSettings), "run": fields_of(RunSettings)}


ALONE = "; a settings file of its own has its keys at the top, without"


def find(name="workers", *, options=None, environ=None, table=None, command="serve") -> Found:
    file = None if table is None else File("everycore.toml", table)
    return resolve(FIELDS[command], options or {}, environ or {}, file, command)[name]


def seen(found: Found) -> tuple[object, str]:
    return found.value, found.source


EVERYWHERE = {
    "options": {"workers": ("1", "-w")},
    "environ": {"EVERYCORE_WORKERS": "2", "WEB_CONCURRENCY": "3"},
    "table": {"workers": 4},
}


def test_an_option_goes_before_all():
    assert seen(find(**EVERYWHERE)) == (1, "-w")


def test_a_variable_goes_before_the_file_and_everycores_own_before_others():
    assert seen(find(**EVERYWHERE | {"options": {}})) == (2, "EVERYCORE_WORKERS")
    others = {"options": {}, "environ": {"WEB_CONCURRENCY": "3"}}
    assert seen(find(**EVERYWHERE | others)) == (3, "WEB_CONCURRENCY")


def test_the_file_goes_before_the_default():
    assert seen(find(table={"workers": 4})) == (4, "everycore.toml: workers")
    assert seen(find()) == ("auto", "default")


def test_an_empty_variable_is_not_set():
    assert find(environ={"EVERYCORE_WORKERS": "", "WEB_CONCURRENCY": "3"}).value == 3


def test_a_command_has_a_table_of_its_own():
    table = {"grace": 5, "serve": {"grace": 6}}
    assert seen(find("grace", table=table)) == (6.0, "everycore.toml: serve.grace")
    assert seen(find("grace", table=table, command="run")) == (5.0, "everycore.toml: grace")


def test_dashes_and_underscores_are_one():
    assert find("stop_delay", table={"stop-delay": 1}).value == 1.0
    assert find("stop_delay", table={"stop_delay": 1}).value == 1.0
    with pytest.raises(ConfigurationError, match=r"stop_delay .*the same setting as stop-delay"):
        find("stop_delay", table={"stop-delay": 1, "stop_delay": 2})


def test_a_variable_of_the_platform_sets_a_default_that_the_file_beats():
    kubernetes = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert seen(find("grace", environ=kubernetes)) == (25.0, "KUBERNETES_SERVICE_HOST")
    assert find("grace", environ=kubernetes, table={"grace": 9}).value == 9.0
    assert find("port", environ={"PORT": "5000"}).layer == Layer.IMPLIED


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"options": {"workers": ("0", "-w")}},
            "-w: must be 'auto' or a whole number from 1 to 1000, not '0'",
        ),
        ({"environ": {"EVERYCORE_WORKERS": "x"}}, "--workers (from EVERYCORE_WORKERS): must be"),
        ({"environ": {"WEB_CONCURRENCY": "0"}}, "--workers (from WEB_CONCURRENCY): must be"),
        ({"table": {"workers": 0}}, "--workers (from everycore.toml: workers): must be"),
        ({"table": {"serve": {"workers": "x"}}}, "--workers (from everycore.toml: serve.workers): must be"),
        ({"table": {"serve": 3}}, "serve (from everycore.toml): must be a table, [serve]"),
        ({"environ": {"PORT": "x"}}, "--port (from PORT): must be"),
    ],
)
def test_an_error_names_the_source(given, text):
    with pytest.raises(ConfigurationError) as caught:
        find(**given)
    assert str(caught.value).startswith(text)


def test_what_is_not_asked_for_may_be_wrong():
    assert find(options={"workers": ("1", "-w")}, environ={"WEB_CONCURRENCY": "x"}).value == 1


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        ({"workers": 1, "app": "a:b", "serve": {"bind": []}, "run": {"grace": 1}}, []),
        ({"workrs": 1}, [("workrs", "; did you mean 'workers'?")]),
        ({"serve": {"graze": 1}}, [("serve.graze", "; did you mean 'grace'?")]),
        ({"run": {"bind": ":80"}}, [("run.bind", "")]),
        ({"graceful-timeout": 1}, [("graceful-timeout", "; the key is 'grace'")]),
        ({"quite_else": 1}, [("quite_else", "")]),
        ({"everycore": {"workers": 1}}, [("everycore", f"{ALONE} [everycore]")]),
        ({"tool": {"everycore": {}}}, [("tool", f"{ALONE} [tool.everycore]")]),
    ],
)
def test_unknown_keys(table, wrong):
    assert unknown_keys(File("everycore.toml", table), FIELDS) == wrong


def test_unknown_variables():
    environ = {
        "EVERYCORE_WORKRES": "1",
        "EVERYCORE_GRACE": "1",
        "EVERYCORE_WITHOUT": "all",
        "EVERYCORE_SLOT": "0",
        "OTHER": "1",
    }
    assert unknown_variables(environ, FIELDS["serve"]) == [
        ("EVERYCORE_WORKRES", "; did you mean 'EVERYCORE_WORKERS'?")
    ]


def test_variables_of_kubernetes_for_a_service_named_everycore_are_ignored():
    links = {
        "EVERYCORE_PORT": "tcp://10.0.0.1:80",
        "EVERYCORE_PORT_80_TCP": "tcp://10.0.0.1:80",
        "EVERYCORE_PORT_80_TCP_ADDR": "10.0.0.1",
        "EVERYCORE_SERVICE_HOST": "10.0.0.1",
    }
    environ = links | {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    assert unknown_variables(environ, FIELDS["serve"]) == []
    assert find("port", environ=environ).value == 8000
    with pytest.raises(ConfigurationError, match="EVERYCORE_PORT"):
        find("port", environ=links)


@pytest.mark.parametrize("tree", [ServeSettings, RunSettings])
def test_every_setting_has_one_name_and_no_spelling_is_used_twice(tree):
    spellings = [word for field in fields_of(tree) for word in (field.option, *field.setting.also)]
    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize("tree", [ServeSettings, RunSettings])
def test_defaults_are_values_of_their_kind(tree):
    for field in fields_of(tree):
        if field.default not in (None, ()):
            assert field.setting.kind.from_key(field.default) == field.default, field.name
