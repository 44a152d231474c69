"""`python -m coformer_runtime` is `coformer-node`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
