"""Where the browser tests leave what they saw."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SEEN = ROOT / "build" / "browser"  # screenshots and latencies of the last run; git-ignored
