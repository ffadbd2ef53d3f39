"""DrawingPad: a widget to draw a digit on."""

from collections.abc import Callable

import anywidget
import torch

from labutils.explore.network import HERE

# one drawing at a time; when the kernel has answered, the newest since then follows
RENDER = """
export default {
  render({ model, el }) {
    let waiting = false, next = null;
    const send = (pixels) => {
      next = waiting ? pixels : null;
      if (!waiting) model.send({}, undefined, [pixels.buffer]);
      waiting = true;
    };
    // keys in the explorer are its own: in Notebook 7 an arrow on a slider would move to another cell
    const quiet = (tries) => {
      const output = el.closest(".jp-OutputArea-output");
      const mine = (event) => event.target.setAttribute("data-lm-suppress-shortcuts", "true");
      if (output) output.addEventListener("focusin", mine);
      else if (tries) setTimeout(quiet, 100, tries - 1);
    };
    quiet(100);
    const pad = drawingPad(el, (pixels) => { if (pixels) send(pixels); }, 150);
    const answered = () => { waiting = false; if (next) send(next); };
    model.on("msg:custom", answered);
    return () => { pad.close(); model.off("msg:custom", answered); };
  },
};
"""


class DrawingPad(anywidget.AnyWidget):
    """A pad for mouse, finger or pen. While a stroke grows, `drawn` is called with the drawing as MNIST frames digits,
    (1,1,28,28) floats in [0,1]."""

    _esm = (HERE / "pad.js").read_text(encoding="utf-8") + RENDER

    def __init__(self, drawn: Callable[[torch.Tensor], None]) -> None:
        super().__init__()
        self.drawn = drawn
        self.on_msg(self._received)

    def _received(self, widget: object, content: object, buffers: list[bytes]) -> None:
        try:
            self.drawn(torch.frombuffer(bytearray(buffers[0]), dtype=torch.float32).view(1, 1, 28, 28))
        finally:
            self.send({})  # also after an error: the pad waits for an answer
