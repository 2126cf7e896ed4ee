"""`python -m fsbench`."""

import os
import sys

# `python -m` looks for every module in the working directory first, which may hold anybody's files.
_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
if __name__ == "__main__" and not sys.flags.safe_path and os.path.realpath(sys.path[0]) != _ROOT:
    del sys.path[0]

from fsbench.cli.main import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
