"""The sections of settings in `--help` and in the reference."""

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
