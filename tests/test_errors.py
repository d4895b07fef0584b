"""What the errors of a task group are, taken together."""

import pytest

from everycore.errors import consists_of


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("several", errors)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError(), True),
        (ValueError(), False),
        (group(KeyError(), KeyError()), True),
        (group(KeyError(), ValueError()), False),
        (group(group(KeyError()), KeyError()), True),
        (group(KeyError(), group(KeyError(), group(ValueError()))), False),
        (group(KeyboardInterrupt()), False),
    ],
    ids=repr,
)
def test_a_group_consists_of_what_all_its_errors_are(error, expected):
    assert consists_of(error, lambda inner: isinstance(inner, LookupError)) is expected
