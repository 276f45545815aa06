"""Published recipes for training classifiers, scaled to one's own batch and length.

What is published belongs to 256 images a step and hundreds of epochs. Here a recipe holds what can
be carried over: the learning rate for each image of the batch, the weight decay, the shape of the
schedule over the whole run, and the share of the run over which the weights are averaged.
"""

from dataclasses import dataclass
from typing import Any

IMAGENET = 1_281_167  # training pictures


@dataclass(frozen=True)
class Recipe:
    """How a network was trained on ImageNet."""

    source: str
    fields: dict[str, Any]  # of ``TrainConfig``, as they were
    epochs: int

    def scaled(self, batch_size: int, iterations: int) -> dict[str, Any]:
        """The fields of ``TrainConfig`` for another batch and another number of iterations.

        The learning rate grows with the batch (Goyal et al., arXiv 1706.02677, sec. 2.1). The
        average spans the same share of the run: ``1 / (1 − decay)`` iterations of all.
        """
        fields = dict(self.fields)
        fields["lr"] = fields["lr"] * batch_size / fields["batch_size"]
        length = self.epochs * IMAGENET / fields["batch_size"]
        if fields["ema_decay"]:
            span = iterations / length / (1 - fields["ema_decay"])
            fields["ema_decay"] = max(0.0, 1 - 1 / span) if span > 1 else 0.0
        return fields | {"batch_size": batch_size, "iterations": iterations}


RECIPES = {
    # Nothing is said of the schedule, the warm-up or an average of the weights: a cosine, the
    # package's own warm-up, and none.
    "sgd": Recipe(
        source="the model card of fbnetc_100: SGD with momentum 0.9, weight decay 5e-4, learning "
        "rate 0.1 at batch 256, 360 epochs, dropout 0.2",
        fields={
            "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4,
            "batch_size": 256, "schedule": "cosine", "final_lr": 0.0, "ema_decay": 0.0,
        },
        epochs=360,
    ),
    "rmsprop": Recipe(
        source="timm's for its EfficientNets and FBNets (issues 17, 45 and 188 of "
        "pytorch-image-models): RMSProp with eps 1e-3, weight decay 1e-5, learning rate 0.016 at "
        "batch 256, times 0.97 each 2.4 epochs, 450 epochs, EMA 0.9999, dropout 0.2",
        fields={
            "optimizer": "rmsprop", "lr": 0.016, "momentum": 0.9, "weight_decay": 1e-5,
            "batch_size": 256, "schedule": "step", "stairs": 187, "final_lr": 0.97**187,
            "ema_decay": 0.9999,
        },
        epochs=450,
    ),
}  # fmt: skip


def recipe_fields(name: str, batch_size: int, iterations: int) -> dict[str, Any]:
    """The fields of ``TrainConfig`` that the recipe ``name`` sets.

    Raises:
        ValueError: if there is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name].scaled(batch_size, iterations)
