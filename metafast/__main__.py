"""`python -m metafast` is the `metafast` command; `torchrun -m metafast train` trains data-parallel."""

import sys

from metafast.cli import main

sys.exit(main())
