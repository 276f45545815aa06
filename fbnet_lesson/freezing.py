"""Freezing the first stages of a trunk: what a pretrained network already knows stays as it is."""

import re
from functools import partial

from torch import nn


def freeze_stages(model: nn.Module, k: int) -> list[str]:
    """Freeze ``trunk0`` … ``trunk{k-1}`` of the model's backbone, print and return their names.

    A frozen stage has no trainable parameter and stays in eval mode whatever ``model.train()``
    says: its norms use their running statistics and never update them. That holds in a
    ``deepcopy``, inside DDP, after ``load_state_dict`` and after pickling; the keys of the state
    dict do not change. k=0 freezes nothing.

    Raises:
        ValueError: if k is not between 0 and the number of stages.
    """
    stages = trunk_stages(model)
    if not 0 <= k <= len(stages):
        raise ValueError(
            f"freeze_stages={k} is not possible; allowed is 0 to {len(stages)}, "
            f"the number of trunk stages ({', '.join(stages)})"
        )
    frozen = list(stages)[:k]
    for name in frozen:
        _freeze(stages[name])
    if frozen:
        parameters = sum(p.numel() for name in frozen for p in stages[name].parameters())
        print(f"frozen: {', '.join(frozen)} ({parameters:,} parameters and the norm statistics)")
    return frozen


def trunk_stages(model: nn.Module) -> dict[str, nn.Module]:
    """The stages ``trunk0``, ``trunk1`` … of the backbone, in order, wherever it keeps them.

    Raises:
        ValueError: if there is none.
    """
    backbone = getattr(model, "backbone", model)
    found = {
        match[1]: module
        for name, module in backbone.named_modules()
        if (match := re.fullmatch(r"(?:.*\.)?(trunk\d+)", name))
    }
    if not found:
        raise ValueError(f"{type(model).__name__} has no trunk stages: no module named trunk0")
    return dict(sorted(found.items(), key=lambda item: int(item[0][len("trunk") :])))


def _freeze(stage: nn.Module) -> None:
    for parameter in stage.parameters():
        parameter.requires_grad_(False)
    for module in stage.modules():
        module.eval()
        # An attribute of the instance hides the method. A partial, unlike a closure, is copied
        # with the module: in a deepcopy or a pickle it holds the copy, not the original.
        module.train = partial(_stay_in_eval, module)


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    return module
