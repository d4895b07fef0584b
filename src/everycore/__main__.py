"""`python -m everycore`."""

import sys

from everycore.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
