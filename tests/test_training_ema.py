import torch
from torch import nn

from fbnet_lesson.training.ema import EMA


def set_all(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def test_the_first_update_copies_and_later_ones_average_with_a_decay_that_warms_up():
    model = nn.Linear(1, 1)
    ema = EMA(model, decay=0.25)
    assert [round(ema.decay_at(t), 4) for t in (1, 2, 3)] == [0.1818, 0.25, 0.25]
    expected = None
    for update, value in enumerate([1.0, 2.0, 4.0]):
        set_all(model, value)
        ema.update_parameters(model)
        decay = min(0.25, (1 + update) / (10 + update))
        expected = value if update == 0 else decay * expected + (1 - decay) * value
        assert abs(ema.module.weight.item() - expected) < 1e-6


def test_the_statistics_of_norms_are_averaged_as_the_weights_are():
    norm = nn.BatchNorm2d(1)
    ema = EMA(norm, decay=0.25)
    for value in (0.0, 1.0):
        norm.running_mean.fill_(value)
        ema.update_parameters(norm)
    assert abs(ema.module.running_mean.item() - (1 - 2 / 11)) < 1e-6


def test_buffers_that_are_not_floating_point_are_copied_and_never_averaged():
    norm = nn.BatchNorm2d(1)
    norm.register_buffer("sizes", torch.tensor([32, 33]))
    ema = EMA(norm, decay=0.9)
    for count in range(7):
        norm.num_batches_tracked.fill_(count)
        ema.update_parameters(norm)
        assert ema.module.num_batches_tracked == count
        assert ema.module.sizes.tolist() == [32, 33]


def test_training_the_model_does_not_touch_the_average():
    model = nn.Linear(1, 1)
    ema = EMA(model, decay=0.9)
    ema.update_parameters(model)
    before = ema.module.weight.clone()
    set_all(model, 7.0)
    assert torch.equal(ema.module.weight, before)
    assert not ema.module.training
