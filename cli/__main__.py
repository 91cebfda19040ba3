"""`python -m mujepa.cli` is the `mujepa` command."""

import sys

from mujepa.cli.main import main

sys.exit(main())
