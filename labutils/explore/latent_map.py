"""LatentMap: codes of test images in two dimensions, decoded under the mouse."""

import base64
import io
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from PIL import Image

from labutils.codes import project
from labutils.data import Dataset, evenly_spaced
from labutils.explore.network import SCRIPTS, decoder_spec, packed
from labutils.explore.space import Model, Space, latent_space
from labutils.explore.still import with_still
from labutils.pictures import DIGIT_COLOURS, png


class Projection:
    """Codes z (N,latent_dim) projected to xy (N,2) float32, and the inverse.

    Args:
        method: "pca", "tsne" or "umap"; None takes both units of a 2-D model as they are ("codes"), else "pca".

    Attributes:
        matrix: (3,latent_dim), (x, y, 1) times it is the code of a point; None where the projection is not linear.
    """

    def __init__(self, z: torch.Tensor, method: str | None = None) -> None:
        units = z.shape[1]
        if units < 2:
            raise ValueError("a code of one unit has no map: take a model with two units or more")
        self.z, self.method = z, method or ("codes" if units == 2 else "pca")
        as_they_are = self.method == "codes" and units == 2
        self.xy = (z.numpy() if as_they_are else project(z, self.method)).astype(np.float32)
        self.matrix: torch.Tensor | None = None
        if self.method in ("codes", "pca"):
            # the inverse of a linear projection, other directions at their mean, is a least-squares fit of z to it
            plane = np.column_stack([self.xy, np.ones(len(self.xy))])
            self.matrix = torch.from_numpy(np.linalg.lstsq(plane, z.double().numpy(), rcond=None)[0]).float()

    def nearest(self, xy: torch.Tensor) -> torch.Tensor:
        """Return (M,) the index of the code drawn nearest to each point (M,2)."""
        return torch.cdist(xy, torch.from_numpy(self.xy)).argmin(1)

    def inverse(self, xy: torch.Tensor) -> torch.Tensor:
        """Return codes (M,latent_dim) of points (M,2); for t-SNE and UMAP the code drawn nearest."""
        if self.matrix is None:
            return self.z[self.nearest(xy)]
        return torch.cat([xy, torch.ones(len(xy), 1)], dim=1) @ self.matrix

    @property
    def extent(self) -> list[float]:
        """[x0, x1, y0, y1] of the middle 99.8 % of the points and a margin."""
        low, high = np.quantile(self.xy, [0.001, 0.999], axis=0)
        room = 0.04 * (high - low) + 1e-6
        return np.stack([low - room, high + room], axis=1).flatten().tolist()


def project_test_images(space: Space, method: str | None, n: int) -> tuple[torch.Tensor, Projection, dict[str, Any]]:
    """Return the indices of up to n evenly spaced test images, their Projection, and the data for latent_map.js."""
    total = len(space.data.test)
    index = evenly_spaced(min(n, total), total)
    projection = Projection(space.test_z[index], method)
    points = {
        "names": list(space.names), "extent": projection.extent, "method": projection.method,
        "colours": [DIGIT_COLOURS[i % len(DIGIT_COLOURS)] for i in range(len(space.names))],
        "xy": packed(projection.xy), "z": packed(projection.z), "labels": packed(space.data.test.labels[index], "<u2"),
        "matrix": None if projection.matrix is None else packed(projection.matrix),
    }  # fmt: skip
    return index, projection, points


# jupyter-scatter needs WebGL, shows no picture under the mouse, and cannot go into a page without a kernel
class LatentMap(anywidget.AnyWidget):
    """A map of test images' codes, coloured by class. The point under the mouse is decoded (by a conditional_vae with
    the class of the nearest image); a click loads the image of the nearest point into `explorer`.

        LatentMap("vae2", explorer=explorer)

    The browser decodes; where it cannot (a network of your own, a layer that network.js does not know) the kernel does.

    Args:
        model, data: see `latent_space`; None means the explorer's.
        method: see Projection.
        n: how many test images, evenly spaced.
        explorer: a LatentExplorer of the same model.

    Attributes:
        clicked: the index of the test image that was clicked last, or −1.
        index: (N,) the test images on the map.
    """

    _esm = SCRIPTS
    data: traitlets.Dict = traitlets.Dict().tag(sync=True)
    clicked = traitlets.Int(-1)

    def __init__(
        self,
        model: Model | Space | None = None,
        data: Dataset | None = None,
        method: str | None = None,
        *,
        n: int = 3000,
        explorer: Any = None,
    ) -> None:
        if model is None and explorer is None:
            raise ValueError("a map needs a model, or an explorer whose model it takes")
        self.space = explorer.space if model is None else latent_space(model, data)
        self.explorer = explorer
        self.index, self.projection, points = project_test_images(self.space, method, n)
        try:
            decoder = decoder_spec(self.space.model)
        except ValueError:  # the kernel decodes
            decoder = None
        super().__init__(data={**points, "decoder": decoder})
        self.on_msg(self._received)

    def picture_at(self, x: float, y: float) -> bytes:
        """Return the decoded point as a PNG file."""
        return png(self._decoded(torch.tensor([[x, y]], dtype=torch.float32)))

    def click(self, point: int) -> None:
        """Load the image of a point of the map, by its index, into the explorer."""
        self.clicked = int(self.index[point])
        if self.explorer:
            self.explorer.from_image(self.clicked)

    def still(self) -> Image.Image:
        """Return the map as a picture."""
        from labutils.plots import plot_projections  # only here: pages are written without matplotlib

        labels = self.space.data.test.labels[self.index].numpy()
        buffer = io.BytesIO()
        name = f"{self.space.name}: {self.projection.method}"
        figure = plot_projections({name: self.projection.xy}, labels, self.space.names)
        figure.savefig(buffer, dpi=90)
        return Image.open(buffer)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        data, _ = super()._repr_mimebundle_(**options) or ({}, {})
        return with_still(data, self.still(), "A map of codes, a dot for each test image, coloured by class.")

    def close(self) -> None:
        """Remove the map from the page and the kernel."""
        self.layout.close()
        super().close()

    def _decoded(self, xy: torch.Tensor) -> torch.Tensor:
        labels = self.space.data.test.labels[self.index[self.projection.nearest(xy)]]
        return self.space.decode(self.projection.inverse(xy), labels)

    def _received(self, widget: Any, content: dict[str, Any], buffers: list[bytes]) -> None:
        try:
            if "click" in content:
                self.click(content["click"])
            else:
                picture = base64.b64encode(self.picture_at(*content["hover"])).decode()
                self.send({"picture": f"data:image/png;base64,{picture}"})
        except BaseException as error:  # an interrupt, too: the page waits for an answer
            self.send({"error": f"{type(error).__name__}: {error}"})
            raise
