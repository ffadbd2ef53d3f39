"""A stranger finds a thing in the file whose name says so: what readers ask, and where the answer is."""

from pkgutil import resolve_name

import pytest

from labutils.paths import ROOT

WHERE = {
    "Where is the learning-rate schedule?": "labutils.optim:lr_factor",
    "Where is Muon?": "labutils.optim:Muon",
    "Where is the training loop?": "labutils.training:fit",
    "Where would I add a loss?": "labutils.objectives:squared_error",
    "Where is the KL term of the VAE?": "labutils.objectives:kl_to_standard_normal",
    "Where are the layers of the encoder?": "labutils.models:conv_encoder",
    "Where would I register a new kind of model?": "labutils.kinds:KINDS",
    "Where is the default of batch_size, and its range?": "labutils.config:Config",
    "Where is the split into training and validation images?": "labutils.data:load_dataset",
    "Where are downloaded files verified?": "labutils.download:read_files",
    "Where is SSIM?": "labutils.metrics:ssim",
    "Where is the PCA reference?": "labutils.evaluation:pca_error",
    "Where is the likelihood by importance sampling?": "labutils.evaluation:importance_nll",
    "Where is the verdict 'better' or 'worse' decided?": "labutils.stats:compare",
    "Where does every setting get its own learning rate?": "labutils.sweeps:tuned_sweep",
    "Where is GPU or CPU chosen?": "labutils.device:resolve_device",
    "Where are runs given to several processes?": "labutils.workers:rows",
    "Where is the name of a stored run computed?": "labutils.store.key:run_key",
    "Where is a training saved to go on after a crash?": "labutils.store.checkpoint:Checkpoint",
    "Where are codes interpolated?": "labutils.codes:interpolate",
    "Where is the panel with the sliders?": "labutils.explore.explorer:LatentExplorer",
    "Where is the exported HTML page made?": "labutils.explore.page:export_html",
    "Where is a notebook executed headless?": "labutils.publish.execution:run_series",
}


@pytest.mark.parametrize("question", WHERE)
def test_what_readers_ask_for_is_where_the_map_says(question):
    module, name = WHERE[question].split(":")
    resolve_name(WHERE[question])
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert f"def {name}(" in text or f"class {name}" in text or f"\n{name} = " in text, "defined there, not imported"
