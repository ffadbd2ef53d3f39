"""labutils: what the notebooks stand on."""

from labutils.config import BASELINE, COMPACT, TRADEOFF, Config
from labutils.data import load_dataset
