"""Which images make the batch of an iteration, and the random numbers that go with them.

Both are functions of (seed, iteration) alone. Not of what happened before, so that a run resumes
without a stored random state; not of the number of worker processes or of the processes that share
the batch, so that those change the speed and never the result.

A *draw* is one image at one place of one batch: iteration t with batch size B takes the draws
``t·B … t·B + B − 1`` of an endless sequence that passes through the data set in a new order each
time. Process r of W takes the r-th of W equal parts of the batch.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler


def mix(*parts: int | str) -> int:
    """A seed below 2**63 made of all parts: the same on every machine, unrelated for others."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class BatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields, for each iteration in ``iterations``, this process's pairs (draw, dataset index).

    Raises:
        ValueError: for an empty data set, or a batch that does not divide among the processes.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        iterations: range,
        rank: int = 0,
        world_size: int = 1,
    ):
        if length < 1:
            raise ValueError("the training set has no images")
        if batch_size % world_size:
            raise ValueError(
                f"batch_size={batch_size} does not divide among {world_size} processes; "
                f"allowed are multiples of {world_size}"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.iterations = iterations
        self.part = batch_size // world_size
        self.offset = rank * self.part

    def __len__(self) -> int:
        return len(self.iterations)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, None
        for iteration in self.iterations:
            first = iteration * self.batch_size + self.offset
            batch = []
            for draw in range(first, first + self.part):
                if draw // self.length != epoch:
                    epoch = draw // self.length
                    order = self.order_of_epoch(epoch)
                batch.append((draw, int(order[draw % self.length])))
            yield batch

    def order_of_epoch(self, epoch: int) -> torch.Tensor:
        """The order ``[length]`` in which the data set is passed through for the n-th time."""
        generator = torch.Generator().manual_seed(mix(self.seed, "order", epoch))
        return torch.randperm(self.length, generator=generator)


class SeededDataset(Dataset):
    """The data set with random numbers that depend on the draw: item (draw, index) -> sample.

    Each target gets ``sampling_seed``, from which the model draws this image's anchors and ROIs.
    """

    def __init__(self, dataset: Any, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, item: tuple[int, int]) -> tuple[Any, dict[str, Any]]:
        draw, index = item
        generator = torch.default_generator
        state = generator.get_state()
        try:
            generator.manual_seed(mix(self.seed, "augment", draw))
            image, target = self.dataset[index]
        finally:
            generator.set_state(state)
        return image, {**target, "sampling_seed": mix(self.seed, "sample", draw)}


def as_lists(samples: list[tuple[Any, dict]]) -> tuple[list[Any], list[dict]]:
    """Collate without stacking: images differ in size, targets in the number of objects."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


def training_loader(
    dataset: Any, sampler: BatchSampler, num_workers: int, pin_memory: bool = False
) -> DataLoader:
    """Batches of the sampler's iterations, in their order, as lists of images and of targets."""
    return DataLoader(
        SeededDataset(dataset, sampler.seed),
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=as_lists,
        pin_memory=pin_memory,
        worker_init_fn=one_thread if num_workers else None,
    )


def one_thread(worker: int) -> None:
    """Image processing in one thread a worker: more would fight for the same cores."""
    torch.set_num_threads(1)


def to_device(
    images: list[Any], targets: list[dict], device: torch.device
) -> tuple[list[torch.Tensor], list[dict]]:
    """Images as float RGB ``[3, H, W]`` in 0..1 and targets, as plain tensors on the device."""
    moved = [image.as_subclass(torch.Tensor).to(device, non_blocking=True) for image in images]
    scaled = [image if image.is_floating_point() else image.float() / 255 for image in moved]
    return scaled, [
        {
            key: value.as_subclass(torch.Tensor).to(device, non_blocking=True)
            if isinstance(value, torch.Tensor)
            else value
            for key, value in target.items()
        }
        for target in targets
    ]
