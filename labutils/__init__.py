"""labutils: what the notebooks stand on.

config      Config, the named configs, paths, scale        stats    summarize, compare, effects, pareto
data        load_dataset: images found, checked, batched   timing   models timed in turns
models      the models: encode(x) -> z, decode(z) -> x_hat latent   codes of images: encode, interpolate, sample
objectives  batch losses: (model, x, y, …) -> dict         plots    plot_*: arrays in, Figure out
training    fit: the one loop; evaluate                    gallery  pictures of every epoch
metrics     what every run measures: quality, floors, cost report   the series executed, published, its page
evaluation  codes and samples judged: probe, NLL, Fréchet  __main__ the command line
runs        run, ablate, sweep, stored_runs; the store

pretrained  the weights that come along                    pictures PNG bytes; digits drawn elsewhere, framed
inference   encode, decode, … of tensors, arrays, pictures space    a model and where the codes of real images lie
widgets     LatentExplorer: sliders, and a picture at once panels   traversals, interpolation, arithmetic, dreams
latent_map  LatentMap (and .js): decoded under the mouse   controls what explorer and panels share
export      a page without Python (decoder.js, page.html)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labutils.config import BASELINE, COMPACT, CONV_VAE, MLP_VAE, TRADEOFF, Config
    from labutils.data import load_dataset
    from labutils.latent_map import LatentMap as LatentMap
    from labutils.runs import ablate, load_run, run, stored_runs, sweep
    from labutils.stats import compare, summarize
    from labutils.widgets import LatentExplorer as LatentExplorer

__all__ = [
    "BASELINE",
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
    for module in ("config", "data", "runs", "stats") if name in __all__ else ():
        if hasattr(found := import_module(f"labutils.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module 'labutils' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *WIDGETS})
