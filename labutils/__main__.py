"""`python -m labutils`: see cli/main.py."""

import sys
import warnings

from labutils.cli.main import main, one_line

warnings.formatwarning = one_line
sys.exit(main())
