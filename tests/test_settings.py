"""`setup_primary` takes what `Settings` has."""

import pytest

import everycore
from everycore.settings import Settings, SettingsFields


def test_a_type_checker_knows_every_field_as_a_keyword():
    hints = Settings.__annotations__
    fields = {name: hints[name] for name in Settings.__struct_fields__}
    assert {name: hint.__forward_arg__ for name, hint in SettingsFields.__annotations__.items()} == fields


def test_an_unknown_keyword_is_a_type_error_and_changes_nothing():
    cluster = everycore.Cluster()
    wrong: dict[str, object] = {"umask": 0o77, "colour": "red"}
    with pytest.raises(TypeError, match=r"setup_primary.*'colour'"):
        cluster.setup_primary(**wrong)  # type: ignore[arg-type]
    assert cluster.settings == Settings()


def test_what_is_not_named_stays():
    cluster = everycore.Cluster(Settings(umask=0o77))
    cluster.setup_primary(silent=True)
    assert cluster.settings == Settings(umask=0o77, silent=True)
