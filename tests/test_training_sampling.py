import pytest
import torch
from training_stand_in import Squares, augmentation

from fbnet_lesson.training.sampling import BatchSampler, mix, to_device, training_loader


def batches(iterations, rank=0, world_size=1, length=10, batch_size=4, seed=0):
    return list(BatchSampler(length, batch_size, seed, iterations, rank, world_size))


def test_each_pass_through_the_data_takes_every_image_once_in_a_new_order():
    indices = [index for batch in batches(range(5)) for _, index in batch]
    assert sorted(indices[:10]) == sorted(indices[10:]) == list(range(10))
    assert indices[:10] != indices[10:]


def test_a_batch_larger_than_the_data_set_passes_through_it_several_times():
    (batch,) = batches(range(1), length=3, batch_size=7)
    indices = [index for _, index in batch]
    assert sorted(indices[:3]) == sorted(indices[3:6]) == [0, 1, 2]
    assert [draw for draw, _ in batch] == list(range(7))


def test_the_batches_after_a_resume_are_those_of_the_undisturbed_run():
    assert batches(range(3, 9)) == batches(range(9))[3:]


def test_two_processes_share_the_batch_that_one_would_have():
    halves = zip(batches(range(6), 0, 2), batches(range(6), 1, 2), strict=True)
    assert [first + second for first, second in halves] == batches(range(6))


def test_another_seed_is_another_order():
    assert batches(range(3)) != batches(range(3), seed=1)


def test_a_batch_that_does_not_divide_among_the_processes_is_an_error():
    with pytest.raises(ValueError, match="batch_size=4 does not divide among 3 processes"):
        BatchSampler(10, 4, 0, range(1), 0, 3)


def test_an_empty_training_set_is_an_error():
    with pytest.raises(ValueError, match="the training set has no images"):
        BatchSampler(0, 4, 0, range(1))


def load(num_workers, iterations=range(3)):
    sampler = BatchSampler(10, 4, 0, iterations)
    loader = training_loader(Squares(10, transform=augmentation()), sampler, num_workers)
    return [(torch.stack(images), targets) for images, targets in loader]


def test_the_augmented_images_do_not_depend_on_the_number_of_workers():
    for (images, targets), (expected, expected_targets) in zip(load(2), load(0), strict=True):
        assert torch.equal(images, expected)
        seeds = [target["sampling_seed"] for target in targets]
        assert seeds == [target["sampling_seed"] for target in expected_targets]


def test_the_augmented_images_after_a_resume_are_those_of_the_undisturbed_run():
    for (images, _), (expected, _) in zip(load(0, range(1, 3)), load(0)[1:], strict=True):
        assert torch.equal(images, expected)


def test_an_image_is_augmented_in_another_way_each_time():
    sampler = BatchSampler(1, 8, 0, range(1))
    ((images, _),) = training_loader(Squares(1, transform=augmentation()), sampler, 0)
    assert len({image.sum().item() for image in images}) > 4


def test_loading_leaves_the_random_state_of_the_process_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    loader = training_loader(
        Squares(10, transform=augmentation()), BatchSampler(10, 4, 0, range(3)), 0
    )
    iterator = iter(loader)  # DataLoader itself draws one number here
    torch.manual_seed(3)
    list(iterator)
    assert torch.rand(1) == expected


def test_mixed_seeds_differ_for_every_part_and_fit_an_int64():
    seeds = {mix(seed, word, n) for seed in range(20) for word in "ab" for n in range(50)}
    assert len(seeds) == 20 * 2 * 50
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix(0, "order", 1) == 2002067703672271585  # the same on every machine, for ever


def test_images_reach_the_model_as_plain_float_tensors_in_0_to_1():
    image, target = Squares(1)[0]
    (moved,), (moved_target,) = to_device([image], [target], torch.device("cpu"))
    assert type(moved) is torch.Tensor and type(moved_target["boxes"]) is torch.Tensor
    assert moved.dtype == torch.float32 and moved.max() == 1.0
    (again,), _ = to_device([moved], [target], torch.device("cpu"))
    assert torch.equal(again, moved)  # what is float already is not scaled twice
