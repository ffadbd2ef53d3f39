"""`python -m labutils`: see cli/main.py."""

import sys
import warnings

from labutils.cli.main import main

# whoever types a command does not know the line of ours that a warning comes from
warnings.formatwarning = lambda message, *where, **more: f"warning: {message}\n"
sys.exit(main())
