"""Pictures of one thing each, with its class: what a classifier learns from.

A sample is ``(image uint8 [3, S, S] RGB, {"label": int, "image_id": int})``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .pictures import read_image
from .shapes import CATEGORIES, Draws, render_scene

MARGIN = 0.15  # of an object's long side, on each side of it: it is cut out with some table


class ShapesClasses(Dataset):
    """Single pieces cut out of shapes scenes: the first ``length`` of the series ``seed``.

    Each comes from a scene of its own, is cut out as a square of its long side and a margin, and
    is made ``edge`` pixels wide. Two series of different seeds share no scene.
    """

    STREAM = 7  # of the scene's random numbers: what to cut out

    def __init__(self, length: int, seed: int = 0, edge: int = 64, transform: Any = None):
        if not isinstance(length, int) or length < 1:
            raise ValueError(f"length is {length!r}; it must be a whole number, 1 or more")
        self.length, self.seed, self.edge, self.transform = length, seed, edge, transform
        self.categories = list(CATEGORIES)
        self.category_ids = list(range(1, len(CATEGORIES) + 1))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, int]]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        scene, chosen = self._piece(index)
        image = torch.from_numpy(square_around(scene.image, scene.masks[chosen]))
        image = F.resize(image.permute(2, 0, 1), [self.edge, self.edge], antialias=True)
        target = {"label": int(scene.labels[chosen]), "image_id": index}
        return (self.transform(image) if self.transform else image), target

    def _piece(self, index: int) -> tuple[Any, int]:
        """A scene and which of its pieces; of a scene without one, the next of its own series."""
        for attempt in range(100):
            key = index + attempt * self.length  # another scene than any other index's
            scene = render_scene(self.seed, key)
            single = np.flatnonzero(~scene.iscrowd)
            if len(single):
                return scene, int(single[Draws(self.seed, key, self.STREAM).below(len(single))])
        raise AssertionError("a hundred scenes without a piece")


def square_around(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The square part of ``image`` [H, W, 3] around what ``mask`` [H, W] covers, with a margin;
    beyond the border the picture's edge is repeated."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    middle = (rows[0] + rows[-1] + 1) // 2, (columns[0] + columns[-1] + 1) // 2
    long = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    half = int(np.ceil(long * (0.5 + MARGIN)))
    padded = np.pad(image, ((half, half), (half, half), (0, 0)), mode="edge")
    return padded[middle[0] : middle[0] + 2 * half, middle[1] : middle[1] + 2 * half].copy()


class FolderClasses(Dataset):
    """Pictures sorted into one folder a class, as torchvision's ``ImageFolder`` takes them.

    The classes are the folders by their sorted names, or ``categories`` in that order. Pictures
    are read as everywhere in this package: turned upright, in 8 bits, see ``pictures``.

    Raises:
        ValueError: without two folders of pictures, for a folder without any, or one that is not
            among ``categories``.
    """

    def __init__(self, folder: str | Path, transform: Any, categories: list[str] | None = None):
        self.root, self.transform = Path(folder), transform
        if not self.root.is_dir():
            raise ValueError(f"{folder} is no folder: expected one with a folder for each class")
        found = sorted(p.name for p in self.root.iterdir() if p.is_dir() and p.name[0] != ".")
        self.categories = found if categories is None else list(categories)
        if unknown := [name for name in found if name not in self.categories]:
            raise ValueError(
                f"{folder} has the classes {', '.join(unknown)}, which the training set has not; "
                f"it has {', '.join(self.categories)}"
            )
        if len(self.categories) < 2:
            raise ValueError(
                f"{folder} has {len(found)} folders; a classifier needs one for each class, at "
                "least two, as in FOLDER/cat/1.jpg and FOLDER/dog/1.jpg"
            )
        self.category_ids = list(range(1, len(self.categories) + 1))
        self.files = [
            (path, label)
            for label, name in enumerate(self.categories)
            for path in pictures_of(self.root / name)
        ]
        counts = self.class_counts()
        if empty := [name for name in found if not counts[name]]:
            raise ValueError(
                f"{folder} has no picture of {', '.join(empty)} (known are "
                f"{', '.join(IMG_EXTENSIONS)}); put some there, or remove the folder"
            )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, int]]:
        path, label = self.files[index]
        image = F.pil_to_tensor(read_image(path))
        return self.transform(image), {"label": label, "image_id": index}

    def class_counts(self) -> dict[str, int]:
        """How many pictures each class has: {name: count}."""
        counts = dict.fromkeys(self.categories, 0)
        for _, label in self.files:
            counts[self.categories[label]] += 1
        return counts


def pictures_of(folder: Path) -> list[Path]:
    """The pictures in a folder and those below it, sorted; none if it is not there."""
    paths = sorted(folder.rglob("*"), key=lambda path: path.as_posix())
    return [path for path in paths if path.suffix.lower() in IMG_EXTENSIONS and path.is_file()]


def train_crops(edge: int, flip: float = 0.5, colour: bool = True) -> v2.Transform:
    """For training: a random part of the picture, by area 35 to 100 %, as a square of ``edge``.

    ImageNet is usually trained on parts from 8 % up; of a few hundred pictures such a part often
    shows nothing of the class.
    """
    steps: list[Any] = [v2.RandomResizedCrop(edge, scale=(0.35, 1.0), antialias=True)]
    steps.append(v2.RandomHorizontalFlip(flip))
    if colour:
        jitter = v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.04)
        steps.append(v2.RandomApply([jitter], p=0.8))
    return v2.Compose(steps)


def middle_crop(edge: int) -> v2.Transform:
    """For evaluation: the middle square of the picture, 7/8 of its short edge, as ImageNet's."""
    return v2.Compose([v2.Resize(-(-edge * 8 // 7), antialias=True), v2.CenterCrop(edge)])
