"""Which files count under `--reload` unless told otherwise; what a pattern means, `core.changes` says."""

from __future__ import annotations

from typing import Final

INCLUDES: Final = ("*.py",)
EXCLUDES: Final = (".*", "*.py[cod]", "*.sw?", "*~", "~*", "__pycache__", "node_modules", "site-packages")
