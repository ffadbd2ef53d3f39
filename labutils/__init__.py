"""labutils: what the notebooks stand on.

config      Config, the named configs, paths, scale        runs     run, ablate, sweep, summarize, compare; the store
data        load_dataset: images found, checked, batched   latent   codes of images: encode, interpolate, project
models      the models: encode(x) -> z, decode(z) -> x_hat plots    plot_*: arrays in, Figure out
objectives  batch losses: (model, x, y) -> dict            report   the series executed, its tables, its page
training    fit: the one loop; evaluate                    __main__ the command line
metrics     reconstruction, floors, costs
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    """The names above, imported when first used: `import labutils` costs nothing, `doctor` starts without torch."""
    for module in ("config", "data", "runs") if name in __all__ else ():
        if hasattr(found := import_module(f"labutils.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module 'labutils' has no attribute {name!r}")
