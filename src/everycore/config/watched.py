"""The files that `--reload` watches by default. `core.changes` says what a pattern means."""

from __future__ import annotations

from typing import Final

INCLUDES: Final = ("*.py",)
EXCLUDES: Final = (".*", "*.py[cod]", "*.sw?", "*~", "~*", "__pycache__", "node_modules", "site-packages")
