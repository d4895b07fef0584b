"""The `everycore` command."""
