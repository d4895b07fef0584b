"""Run by its path, as a script: in each worker, this module becomes the program's `__main__`."""

import os
import sys

if not sys.flags.safe_path:
    del sys.path[0]  # everycore's own folder, which Python puts there for a script
if (path := os.environ.pop("_EVERYCORE_PATH", None)) is not None:
    sys.path[:] = path.split("\n")  # in the format of `ops.interpreter`
from everycore.system import garbage

garbage.rest()  # until everything is imported
from everycore.mold.process import main  # noqa: E402

main(globals())
