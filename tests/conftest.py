"""Every test runs under the kit: nothing leaks, nothing hangs, `async def` tests just work."""

pytest_plugins = ["tests.kit.plugin", "pytester"]
