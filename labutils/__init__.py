"""labutils: what the notebooks stand on.

config      Config, the named configs, paths, scale        stats    summarize, compare, effects, pareto
data        load_dataset: images found, checked, batched   timing   models timed in turns
models      the models: encode(x) -> z, decode(z) -> x_hat latent   codes of images: encode, interpolate, sample
objectives  batch losses: (model, x, y, …) -> dict         plots    plot_*: arrays in, Figure out
training    fit: the one loop; evaluate                    gallery  pictures of every epoch
transfer    another model's encoder under a classifier     report   what a notebook shows and saves
metrics     what every run measures: quality, floors, cost series   the notebooks executed headless, and their page
evaluation  codes and samples judged: probe, NLL, Fréchet  publication  what the repository shows, and whether it fits
runs        run: trained once, then read from the store    keys     the name of a run: a hash of all that decides it
sweeps      sweep, ablate: tables of runs                  files    files with a checksum inside, nothing unpickled
workers     where a sweep's runs are made                  checkpoint  what an interrupted training goes on from
store       stored runs: written whole, verified when read upkeep   what of the store is of no use any more

pretrained  the weights that come along                    pictures PNG bytes; digits drawn elsewhere, framed
inference   encode, decode, … of tensors, arrays, pictures space    a model and where the codes of real images lie
widgets     LatentExplorer: sliders, and a picture at once panels   traversals, interpolation, arithmetic, dreams
latent_map  LatentMap (and .js): decoded under the mouse   controls what explorer and panels share
export      a page without Python (decoder.js, page.html)  favourites  codes that somebody kept
                                                           __main__ the command line
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labutils.config import BASELINE, CLASSIFIER, COMPACT, CONV_VAE, MLP_VAE, TRADEOFF, Config
    from labutils.data import load_dataset
    from labutils.latent_map import LatentMap as LatentMap
    from labutils.runs import run
    from labutils.stats import compare, summarize
    from labutils.store import load_run, stored_runs
    from labutils.sweeps import ablate, sweep
    from labutils.widgets import LatentExplorer as LatentExplorer

__all__ = [
    "BASELINE",
    "CLASSIFIER",
    "COMPACT",
    "CONV_VAE",
    "MLP_VAE",
    "TRADEOFF",
    "Config",
    "ablate",
    "compare",
    "load_dataset",
    "load_run",
    "run",
    "stored_runs",
    "summarize",
    "sweep",
]

# not for `import *`: they bring matplotlib and ipywidgets along
WIDGETS = {"LatentExplorer": "widgets", "LatentMap": "latent_map"}


def __getattr__(name: str) -> Any:
    """The names above, imported when first used: `import labutils` costs nothing, `doctor` starts without torch."""
    if name in WIDGETS:
        return getattr(import_module(f"labutils.{WIDGETS[name]}"), name)
    for module in ("config", "data", "runs", "store", "sweeps", "stats") if name in __all__ else ():
        if hasattr(found := import_module(f"labutils.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module 'labutils' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *WIDGETS})
