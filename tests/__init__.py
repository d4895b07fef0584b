"""The tests of everycore; `tests.kit` is what they stand on."""
