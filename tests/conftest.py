"""Every test runs under the kit: nothing leaks, nothing hangs, `async def` tests just work."""

from hypothesis import HealthCheck, settings

# Its own deadline is 200 ms an example, by a clock that also runs while another process has the processor.
settings.register_profile("everycore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("everycore")

pytest_plugins = ["tests.kit.plugin", "pytester"]
