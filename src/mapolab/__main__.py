"""`python -m mapolab` is `mapolab`."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # Python looks for modules in the current folder first, and what lies there may be a stranger's. What it has
    # imported to come this far cannot be undone: `mapolab`, or `python -P -m mapolab`, never looks there.
    if not sys.flags.safe_path and sys.path[0] == os.getcwd() and Path(sys.path[0]) != Path(__file__).parents[1]:
        del sys.path[0]

    from mapolab.cli import main

    sys.exit(main())
