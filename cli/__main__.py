"""`python -m mujepa.cli` is the `mujepa` command."""

import sys

from mujepa.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
