"""The tests of everycore, which are built on `tests.kit`."""
