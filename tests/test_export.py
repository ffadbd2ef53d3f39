"""The exported page: what it holds. That it runs, and decodes as Python does, is for tests/browser."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_latent_map import Own
from test_widgets import TINY, trained_like

from labutils import LatentExplorer
from labutils.explore.network import decoder_spec, encoder_spec
from labutils.explore.page import export_html
from labutils.explore.space import latent_space


def test_a_page_holds_everything_and_asks_for_nothing(digits, tmp_path):
    space = replace(latent_space(trained_like(TINY), digits, n=200), name="<b>mine</b>")
    explorer = LatentExplorer(space)
    path = explorer.export_html(tmp_path / "a" / "page.html", n=100)
    explorer.close()
    page = path.read_text(encoding="utf-8")
    assert "&lt;b&gt;mine" in page
    assert "@@" not in page
    assert not re.findall(r"https?://|src=[\"'](?!data)|import |fetch\(", page)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    codes = np.frombuffer(base64.b64decode(data["z"]), "<f4").reshape(100, 5)
    np.testing.assert_array_equal(codes, space.test_z[data["test_index"]])
    assert data["order"] == list(space.order)


def test_what_the_page_cannot_decode_is_refused(digits, tmp_path):
    model = trained_like(TINY)
    model.decoder.append(torch.nn.Softplus())
    with pytest.raises(ValueError, match="Softplus"):
        export_html(model, tmp_path / "page.html", digits)
    with pytest.raises(ValueError, match="Own"):
        export_html(Own(trained_like(TINY)), tmp_path / "page.html", digits)
    for layer in (torch.nn.ELU(alpha=0.3), torch.nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2),
                  torch.nn.Conv2d(4, 4, 3, padding=2, dilation=2), torch.nn.Conv2d(4, 4, (1, 3), padding=(0, 1)),
                  torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")):  # fmt: skip
        model = trained_like(TINY)
        model.decoder.append(layer)
        with pytest.raises(ValueError, match=rf"cannot compute {type(layer).__name__}"):
            decoder_spec(model)
    model = trained_like(TINY)
    model.__class__ = type("Brighter", (type(model),), {"decode": lambda self, z, y=None: 1 - z})
    with pytest.raises(ValueError, match="cannot decode with a Brighter"):
        decoder_spec(model)
    model = trained_like(TINY)
    model.__class__ = type("Louder", (type(model),), {"decode_logits": lambda self, z, y=None: 3 * self.decoder(z)})
    with pytest.raises(ValueError, match="cannot decode with a Louder"):
        decoder_spec(model)
    model.__class__ = type("Blinder", (type(model),), {"encode": lambda self, x: x.flatten(1)})
    with pytest.raises(ValueError, match="cannot encode with a Blinder"):
        encoder_spec(model)
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    with pytest.raises(ValueError, match="cannot classify with a Sequential"):
        export_html(trained_like(TINY), tmp_path / "page.html", digits, classifier=plain)
    assert not list(tmp_path.iterdir())
