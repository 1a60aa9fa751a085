"""`python -m unanimity`: the command line. Nothing of its own."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
