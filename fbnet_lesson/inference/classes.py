"""What a picture shows, by a network trained on ImageNet."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from fbnet_lesson.classification.preprocessing import preprocess
from fbnet_lesson.data.pictures import read_image
from fbnet_lesson.training.detecting import eval_mode

CLASSES = Path(__file__).resolve().parents[1] / "data" / "imagenet_classes.txt"


def imagenet_classes() -> list[str]:
    """The 1000 classes of ImageNet in the order of a network's outputs; no two have one name.

    Source: torchvision, see the head of ``data/imagenet_classes.txt``.
    """
    lines = CLASSES.read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def classify(
    model: nn.Module,
    files: Iterable[str | Path],
    top: int = 5,
    prepare: Callable[[Image.Image], Tensor] | None = None,
    names: Sequence[str] | None = None,
) -> list[list[tuple[str, float]]]:
    """The ``top`` likeliest classes of each picture with their probabilities, likeliest first.

    Args:
        model: a classifier.
        files: pictures; turned upright and made RGB.
        prepare: a PIL picture as normalised RGB ``[3, S, S]``; by default as is published for the
            model of that name.
        names: of the classes; by default ImageNet's, or with another number of outputs ``class 0``,
            …

    Raises ValueError for a file that is no picture, a model without a published transform, or an
    impossible ``top``.
    """
    prepare, device = prepare or preprocess(model), next(model.parameters()).device
    results = []
    with eval_mode(model), torch.inference_mode():
        for file in files:
            image = prepare(read_image(file)).to(device)  # [3, S, S]
            probabilities = model(image[None])[0].softmax(dim=0)  # [K]
            results.append(best_classes(probabilities, top, names))
    return results


def best_classes(
    probabilities: Tensor, top: int, names: Sequence[str] | None = None
) -> list[tuple[str, float]]:
    """The names of the ``top`` largest of ``probabilities [K]`` and what they are."""
    count = len(probabilities)
    if not 1 <= top <= count:
        raise ValueError(f"top={top}: expected 1 to {count}, the number of classes")
    names = imagenet_classes() if names is None else names
    if count != len(names):
        names = [f"class {index}" for index in range(count)]
    values, indices = probabilities.topk(top)
    return [(names[i], value) for i, value in zip(indices.tolist(), values.tolist(), strict=True)]
