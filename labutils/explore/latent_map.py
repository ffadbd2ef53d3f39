"""LatentMap: the codes of thousands of test images in two dimensions, decoded under the mouse."""

from pathlib import Path
from typing import Any, Protocol

import anywidget
import numpy as np
import torch
import traitlets

from labutils.codes import project
from labutils.data import Dataset, evenly_spaced
from labutils.explore.space import Model, Space, latent_space
from labutils.pictures import png
from labutils.plots import DIGIT_COLOURS, class_names

METHODS = ("codes", "pca", "tsne", "umap")
NEIGHBOURS = 8  # codes that are averaged where a projection has no inverse
GRID = 24  # pictures along an edge of the atlas
SCRIPT = Path(__file__).parent / "latent_map.js"


class Explorer(Protocol):
    """What a map needs of the explorer beside it."""

    space: Space

    def from_image(self, index: int) -> None: ...


class Projection:
    """Codes in two dimensions, and the way back from a point of the plane to a code.

    Args:
        z: (N,latent_dim) codes.
        method: "codes" (both units of a 2-D model as they are), "pca", "tsne" or "umap".

    Attributes:
        xy: (N,2) float32.
    """

    def __init__(self, z: torch.Tensor, method: str) -> None:
        if method not in METHODS:
            raise ValueError(f"method={method!r} must be one of {', '.join(METHODS)}")
        if method == "codes" and z.shape[1] != 2:
            raise ValueError(f"method='codes' draws codes of two units as they are, and these have {z.shape[1]}")
        if z.shape[1] < 2:
            raise ValueError("a code of one unit has no map: take a model with two units or more")
        self.z, self.method = z, method
        self.xy = (z.numpy() if method == "codes" else project(z, method)).astype(np.float32)
        # the inverse of a linear projection, other directions at their mean, is a least-squares fit of z to (x, y, 1)
        plane = np.column_stack([self.xy, np.ones(len(self.xy))])
        self.linear = method in ("codes", "pca")
        self.matrix = torch.from_numpy(np.linalg.lstsq(plane, z.double().numpy(), rcond=None)[0]).float()

    def nearest(self, xy: torch.Tensor, k: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Points (M,2) → the k codes that are drawn nearest to each: distances and indices, (M,k)."""
        nearest = torch.cdist(xy, torch.from_numpy(self.xy)).topk(min(k, len(self.xy)), largest=False)
        return nearest.values, nearest.indices

    def inverse(self, xy: torch.Tensor) -> torch.Tensor:
        """Points (M,2) → codes (M,latent_dim). t-SNE and UMAP have no inverse: there it is the mean of the nearest
        codes, the nearer the heavier."""
        if self.linear:
            return torch.cat([xy, torch.ones(len(xy), 1)], dim=1) @ self.matrix
        distances, nearest = self.nearest(xy, NEIGHBOURS)
        weight = 1 / (distances.square() + 1e-9)
        return (weight[..., None] * self.z[nearest]).sum(1) / weight.sum(1, keepdim=True)

    @property
    def extent(self) -> list[float]:
        """[x0, x1, y0, y1] of the middle 99.8 % of the points, with a little room."""
        low, high = np.quantile(self.xy, [0.001, 0.999], axis=0)
        room = 0.04 * (high - low) + 1e-6
        (x0, y0), (x1, y1) = low - room, high + room
        return [float(value) for value in (x0, x1, y0, y1)]

    def grid(self, n: int) -> torch.Tensor:
        """(n²,2) points of a grid over the extent, from the top left, row by row."""
        x0, x1, y0, y1 = self.extent
        y, x = torch.meshgrid(torch.linspace(y1, y0, n), torch.linspace(x0, x1, n), indexing="ij")
        return torch.stack([x.flatten(), y.flatten()], dim=1)


def projected(space: Space, method: str | None, n: int) -> tuple[torch.Tensor, Projection]:
    """Up to n evenly spaced test images: their indices, and their codes in two dimensions. No method means "codes"
    where there are two units, else "pca"."""
    total = len(space.data.test)
    index = evenly_spaced(min(n, total), total)
    return index, Projection(space.test_z[index], method or ("codes" if space.latent_dim == 2 else "pca"))


# Why a widget of our own, and not jupyter-scatter: that one draws with WebGL, which is not everywhere (remote desktops,
# a browser without a GPU), knows nothing of a picture decoded under the mouse, and its drawing cannot be taken along
# into a page without a kernel. A few thousand points need no GPU.
class LatentMap(anywidget.AnyWidget):
    """A map of test images' codes, coloured by class. Moving the mouse decodes the point under it (a conditional_vae is
    told the class of the nearest image); a click loads the image of the nearest point into `explorer`.

        LatentMap("vae2", explorer=explorer)

    Args:
        model: see LatentExplorer; None means the explorer's.
        data: see LatentExplorer.
        method: "codes" for two units as they are, "pca", "tsne" or "umap"; None takes "codes" where there are two
            units, else "pca".
        n: how many test images, evenly spaced.
        explorer: a LatentExplorer of the same model.

    Attributes:
        clicked: the index of the test image that was clicked last, or −1.
        projection: see Projection.
    """

    _esm = SCRIPT
    xy = traitlets.Bytes().tag(sync=True)
    labels = traitlets.Bytes().tag(sync=True)
    names: traitlets.List = traitlets.List().tag(sync=True)
    colours: traitlets.List = traitlets.List().tag(sync=True)
    extent: traitlets.List = traitlets.List().tag(sync=True)
    grid = traitlets.Int(GRID).tag(sync=True)
    atlas = traitlets.Bytes().tag(sync=True)
    clicked = traitlets.Int(-1)

    def __init__(
        self,
        model: Model | Space | None = None,
        data: Dataset | None = None,
        method: str | None = None,
        *,
        n: int = 3000,
        explorer: Explorer | None = None,
    ) -> None:
        if model is None and explorer is None:
            raise ValueError("a map needs a model, or an explorer whose model it takes")
        self.space = explorer.space if model is None and explorer else latent_space(model, data)  # type: ignore[arg-type]
        self.explorer = explorer
        self.index, self.projection = projected(self.space, method, n)
        self._labels = self.space.data.test.labels[self.index]
        names = class_names(self.space.data.name)
        super().__init__(
            xy=self.projection.xy.tobytes(), labels=self._labels.byte().numpy().tobytes(), names=list(names),
            colours=list(DIGIT_COLOURS), extent=self.projection.extent,
            atlas=png(self.plane(GRID), GRID),
        )  # fmt: skip
        self.on_msg(self._received)

    def picture_at(self, x: float, y: float) -> bytes:
        """The PNG of the decoded point."""
        return png(self._decoded(torch.tensor([[x, y]], dtype=torch.float32)))

    def plane(self, n: int) -> torch.Tensor:
        """(n²,1,28,28) the plane decoded on a grid over the extent, from the top left, row by row."""
        return self._decoded(self.projection.grid(n))

    def click(self, point: int) -> None:
        """Load the image of a point (an index into the map's points) into the explorer."""
        self.clicked = int(self.index[point])
        if self.explorer:
            self.explorer.from_image(self.clicked)

    def close(self) -> None:
        """Remove the map from the page and the kernel."""
        self.layout.close()
        super().close()

    def _decoded(self, xy: torch.Tensor) -> torch.Tensor:
        labels = self._labels[self.projection.nearest(xy)[1][:, 0]] if self.space.conditional else None
        return self.space.decode(self.projection.inverse(xy), labels)

    def _received(self, widget: Any, content: dict[str, Any], buffers: list[bytes]) -> None:
        try:
            if "hover" in content:
                self.send({"picture": True}, [self.picture_at(*content["hover"])])
            elif "click" in content:
                self.click(content["click"])
        except Exception as error:
            self.send({"error": f"{type(error).__name__}: {error}"})
            raise
