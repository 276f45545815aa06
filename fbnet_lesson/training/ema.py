"""The exponential moving average of the weights: steadier than the last step, free at test time."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class EMA(AveragedModel):
    """``average ← d·average + (1 − d)·weights`` after each step, norm statistics included.

    d warms up: ``d_t = min(decay, (1 + t) / (10 + t))`` at the update t = 1, 2, …; a fixed 0.9998
    would still be mostly the first weights after a thousand steps. Update 0 copies the weights.

    Counters and other buffers that are not floating point are copied, never averaged.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model, use_buffers=True)
        self.decay = decay
        self.module.eval()

    def decay_at(self, update: int) -> float:
        return min(self.decay, (1 + update) / (10 + update))

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards ``model``, by one step."""
        self.multi_avg_fn = get_ema_multi_avg_fn(self.decay_at(int(self.n_averaged)))
        super().update_parameters(model)
        for average, current in zip(self.module.buffers(), model.buffers(), strict=True):
            if not average.is_floating_point():
                average.copy_(current)
