"""`python -m labutils`: see cli/main.py."""

import sys

from labutils.cli.main import main

sys.exit(main())
