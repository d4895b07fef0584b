"""The sections of settings, as `--help` and the reference have them."""

from typing import Final

ADDRESSES: Final = "Addresses"
WORKERS: Final = "Workers"
SUPERVISION: Final = "Supervision"
APPLICATION: Final = "Application"
STOP: Final = "Stop and reload"
LOG: Final = "Log"
CONTROL: Final = "Control"
METRICS: Final = "Metrics and health"
DEVELOPMENT: Final = "Development"
SECTIONS: Final = (ADDRESSES, WORKERS, SUPERVISION, APPLICATION, STOP, LOG, CONTROL, METRICS, DEVELOPMENT)
