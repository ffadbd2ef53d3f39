"""labutils: what the notebooks stand on. Which module may import which is a list in pyproject.toml.

The core, to be read in an afternoon
  sweeps      tables of runs: sweep, ablate, tuned_sweep   stats       summarize, compare, verdicts, pareto
  runs        one Config -> one stored run: Run, run, load_run
  metrics     what every run measures                     training    fit, the one loop; evaluate
  objectives  losses of a batch                           models      networks: encode(x) -> z, decode(z) -> x_hat
  optim       optimizers, learning-rate schedule          data        load_dataset, subsets, batches
  kinds       network, objective, measures and fields of each kind of model
  config      Config and the named recipes                paths       scale, folders

Looked up, not read
  device      device, precision, threads, eval_mode       download    image files: located, fetched, verified
  transfer    another model's encoder under a classifier  codes       encode, interpolate, project, sample
  own         images of your own, as arrays               pictures    PNG bytes; digits from picture files
  trial       one batch for a kind of your own            plots       plot_*: arrays in, Figure out
  evaluation  PCA, probe, likelihood, Fréchet distance    timing      parameters, MACs, latency, models in turns
  callbacks   progress bar, TensorBoard, each epoch       workers     processes here, or any executor
  graphs      a training step recorded on CUDA

store/        key: the name of a run; source: what your own kind is made of; folder: a run's files; files: written
              whole or not; weights; checkpoint: resume; listing
explore/      explorer: LatentExplorer, the sliders; panels; latent_map; pad: drawing; space: model, codes, images;
              controls; network: layers for the browser; page: exported HTML; still: a picture; favourites; gallery
publish/      execution: notebooks headless; report: tables and results; summary: a notebook's results in short;
              publication: what is committed; words: README's findings; site: pages; pretrained: weights that come along
cli/          python -m labutils: main parses; commands, inference, series and doctor do

`# unproved: …` beside a line says to `make same` why no proving run executes it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labutils.config import BASELINE, CLASSIFIER, COMPACT, CONV_VAE, MLP_VAE, TRADEOFF, Config, add_kind, option
    from labutils.data import load_dataset
    from labutils.explore.explorer import LatentExplorer as LatentExplorer
    from labutils.explore.latent_map import LatentMap as LatentMap
    from labutils.own import save_images
    from labutils.runs import load_run, run
    from labutils.stats import compare, summarize, verdicts
    from labutils.store.folder import stored_runs
    from labutils.sweeps import ablate, sweep, tuned_sweep

__all__ = ["BASELINE", "CLASSIFIER", "COMPACT", "CONV_VAE", "MLP_VAE", "TRADEOFF", "Config", "ablate", "add_kind",
           "compare", "load_dataset", "load_run", "option", "run", "save_images", "stored_runs", "summarize", "sweep",
           "tuned_sweep", "verdicts"]  # fmt: skip
# where each name lives; what is not listed is in config
HOME = {"load_dataset": "data", "run": "runs", "load_run": "runs", "stored_runs": "store.folder", "sweep": "sweeps",
        "ablate": "sweeps", "tuned_sweep": "sweeps", "summarize": "stats", "compare": "stats", "verdicts": "stats",
        "save_images": "own",
        "LatentExplorer": "explore.explorer",
        "LatentMap": "explore.latent_map"}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: `import labutils` costs nothing, and the widgets load for those who ask."""
    if name in __all__ or name in HOME:
        return getattr(import_module(f"labutils.{HOME.get(name, 'config')}"), name)
    raise AttributeError(f"module 'labutils' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *HOME})
