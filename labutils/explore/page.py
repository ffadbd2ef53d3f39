"""A latent space as one HTML page: sliders, the map and a decoder in plain JavaScript. No Python, no network."""

import base64
import html
import json
from collections.abc import Mapping
from pathlib import Path

from labutils.codes import covariance_root
from labutils.data import Dataset
from labutils.explore.latent_map import project_test_images
from labutils.explore.network import HERE, SCRIPTS, classifier_spec, decoder_spec, encoder_spec, packed
from labutils.explore.space import Model, Space, classifier_for, latent_space
from labutils.pictures import png


def export_html(
    model: Model | Space,
    path: str | Path,
    data: Dataset | None = None,
    *,
    classifier: Model | None = None,
    method: str | None = None,
    n: int = 2000,
    title: str = "",
    links: Mapping[str, str] | None = None,
) -> Path:
    """Write one self-contained page with the explorer's sliders, the map and a pad to draw on, and return its path. A
    network with a layer that network.js does not know is a ValueError.

    Args:
        model, data: see `latent_space`.
        classifier: whose opinion of the picture the page tells; None leaves it out.
        method: the map's projection, see Projection.
        n: test images on the map.
        title: of the page; "" is made of the model's name.
        links: text → address, above the title.
    """
    space = latent_space(model, data)
    judge = classifier_for(space, classifier)
    index, _, points = project_test_images(space, method, n)
    images = png(space.data.test.images[index], 50)
    page = {
        **points, "decoder": decoder_spec(space.model), "encoder": encoder_spec(space.model),
        "classifier": None if judge is None else classifier_spec(judge),
        "name": space.name, "measure": space.measure, "order": list(space.order),
        "importance": space.importance.tolist(), "low": space.low.tolist(), "high": space.high.tolist(),
        "mean": space.z.mean(0).tolist(), "covariance_root": packed(covariance_root(space.z)),
        "size": space.data.image_size, "channels": space.data.channels,
        "test_index": index.tolist(), "images": base64.b64encode(images).decode(),
    }  # fmt: skip
    parts = {
        "TITLE": html.escape(title or f"{space.name}: a latent space to touch"),
        "LINKS": " · ".join(
            f'<a href="{html.escape(to)}">{html.escape(text)}</a>' for text, to in (links or {}).items()
        ),
        "DATA": json.dumps(page, ensure_ascii=True).replace("<", "\\u003c"),
        "SCRIPTS": SCRIPTS,
    }
    text = (HERE / "page.html").read_text(encoding="utf-8")
    for name, value in parts.items():
        text = text.replace(f"@@{name}@@", value)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    return Path(path)
