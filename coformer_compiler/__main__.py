"""`python -m coformer_compiler` is `coformerc`; torchrun starts it this way."""

import sys

from coformer_compiler.cli import main

sys.exit(main())
