"""A training step as one CUDA graph: to launch its hundred small kernels takes a processor longer than the card needs
to compute them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]
WARM_UP = 3  # calls in which libraries choose their kernels and optimizers make their state


def recordable(optimizers: Sequence[torch.optim.Optimizer]) -> bool:  # unproved: CUDA
    """Whether all of them can take their learning rates from the card, as a record needs. torch's SGD reads its rate on
    the processor, which ends a recording."""
    return all("capturable" in optimizer.defaults for optimizer in optimizers)


class CapturedStep:
    """A step (x, y) → tensor, recorded at the fourth call and replayed from then on.

    The calls before, and batches of another size than the first, compute as they are. What a step reads has to stay
    where it is: weights and the optimizers' state do, learning rates are copied in before each replay. Random numbers
    are the same with and without a record. A step that decides in Python what it computes must not be recorded.
    """

    def __init__(self, step: Step, optimizers: Sequence[torch.optim.Optimizer]) -> None:  # unproved: CUDA
        self.step, self.optimizers = step, optimizers
        self.calls, self.shape = 0, torch.Size()
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:  # unproved: CUDA
        self.shape = self.shape or x.shape
        if x.shape != self.shape or self.calls < WARM_UP:
            self.calls += 1
            return self.step(x, y)
        if self.graph is None:
            self._capture(x, y)
        self.x.copy_(x)
        self.y.copy_(y)
        for lr, group in zip(self.lrs, self._groups(), strict=True):
            lr.fill_(group["lr"])
        self.graph.replay()  # type: ignore[union-attr]
        return self.out.clone()  # the next replay writes into it

    def _groups(self) -> list[dict[str, Any]]:  # unproved: CUDA
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _capture(self, x: Tensor, y: Tensor) -> None:  # unproved: CUDA
        """Record a step; nothing is computed yet."""
        self.x, self.y, self.graph = x.clone(), y.clone(), torch.cuda.CUDAGraph()
        self.lrs = [torch.tensor(group["lr"], device=x.device) for group in self._groups()]
        as_they_were = [dict(group) for group in self._groups()]
        for group, lr in zip(self._groups(), self.lrs, strict=True):
            group |= {"lr": lr, "capturable": True}
        try:
            with torch.cuda.graph(self.graph):
                self.out = self.step(self.x, self.y)
        finally:
            for group, before in zip(self._groups(), as_they_were, strict=True):
                group.clear()
                group |= before
