"""labutils: what the notebooks stand on.

config      Config, the named configs, paths, scale        runs     run, ablate, sweep, summarize, compare; the store
data        load_dataset: images found, checked, batched   latent   codes of images: encode, interpolate, project
models      the models: encode(x) -> z, decode(z) -> x_hat plots    plot_*: arrays in, Figure out
objectives  batch losses: (model, x, y) -> dict            report   the series executed, its tables, its page
training    fit: the one loop; evaluate                    __main__ the command line
metrics     reconstruction, floors, costs
"""

from labutils.config import BASELINE, COMPACT, TRADEOFF, Config
from labutils.data import load_dataset
from labutils.runs import ablate, compare, load_run, run, summarize, sweep

__all__ = [
    "BASELINE",
    "COMPACT",
    "TRADEOFF",
    "Config",
    "ablate",
    "compare",
    "load_dataset",
    "load_run",
    "run",
    "summarize",
    "sweep",
]
