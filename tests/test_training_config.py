import dataclasses
import math

import pytest

from fbnet_lesson.training.config import TrainConfig, differences


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("optimizer", "adam", "'adamw' or 'sgd' or 'rmsprop'"),
        ("lr", 0.0, "a number above 0"),
        ("lr", math.nan, "a number above 0"),
        ("lr", "fast", "a number above 0"),
        ("momentum", 1.0, "a number at least 0 and below 1"),
        ("batch_size", 0, "an integer of at least 1"),
        ("batch_size", 2.0, "an integer of at least 1"),
        ("iterations", True, "an integer of at least 1"),
        ("ema_decay", 1.0, "a number at least 0 and below 1"),
        ("amp", "yes", "None or True or False"),
        ("scale_range", (1.5, 0.5), "two numbers 0 < low <= high"),
        ("scale_range", (0.0, 1.0), "two numbers 0 < low <= high"),
        ("flip", 1.5, "a number from 0 to 1"),
        ("min_visible", -0.1, "a number from 0 to 1"),
        ("colour", "grey", "True or False"),
        ("seed", 2**32, "an integer of at least 0 and at most 4294967295"),
        ("threads", 0, "an integer of at least 1 and at most 1024, or None"),
        ("max_minutes", 0, "a number above 0, or None"),
        ("device", "tpu", "'auto', 'cpu', 'cuda' or 'cuda:N'"),
    ],
)
def test_an_impossible_value_is_an_error_that_names_field_value_and_what_is_allowed(
    field, value, allowed
):
    with pytest.raises(ValueError) as error:
        TrainConfig(**{field: value})
    assert str(error.value) == f"{field}={value!r} is not possible; allowed is {allowed}"


def test_a_warmup_longer_than_the_run_is_an_error():
    with pytest.raises(ValueError, match="warmup=11 is longer than the run; .* iterations=10"):
        TrainConfig(warmup=11, iterations=10)


def test_an_unknown_field_is_an_error_that_lists_the_fields():
    with pytest.raises(ValueError, match="no field 'epochs'; it has optimizer, lr, "):
        TrainConfig.from_dict({"epochs": 3})


def test_a_config_is_the_same_after_a_round_trip_through_plain_values():
    config = TrainConfig(lr=0.5, scale_range=(0.7, 1.2))
    values = {**config.to_dict(), "scale_range": [0.7, 1.2]}  # JSON knows lists only
    assert TrainConfig.from_dict(values) == config


def test_every_field_says_on_the_command_line_what_it_is():
    assert all(field.metadata["help"] for field in dataclasses.fields(TrainConfig))


def test_the_learning_rate_rises_in_a_line_to_its_full_value_then_falls_by_a_cosine():
    config = TrainConfig(iterations=14, warmup=4, final_lr=0.1)
    factors = [config.learning_rate_factor(i) for i in range(15)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[9] == pytest.approx(0.55)  # halfway between 1 and 0.1
    assert factors[14] == pytest.approx(0.1)
    assert factors[4:] == sorted(factors[4:], reverse=True)


def test_the_warmup_is_by_default_a_tenth_of_the_run_and_at_most_1000():
    runs = [TrainConfig(iterations=n).warmup_iterations for n in (5, 200, 540_000)]
    assert runs == [0, 20, 1000]


def test_without_warmup_training_starts_at_the_full_learning_rate():
    assert TrainConfig(warmup=0).learning_rate_factor(0) == 1.0


def test_only_what_decides_the_result_counts_as_a_difference():
    old = TrainConfig(lr=0.1, num_workers=0, max_minutes=None)
    new = TrainConfig(lr=0.2, num_workers=4, max_minutes=3.0)
    assert differences(old, new) == ["lr: 0.1 -> 0.2"]


def test_more_iterations_are_no_difference_and_fewer_are():
    short, long = TrainConfig(iterations=100), TrainConfig(iterations=200)
    assert differences(short, long) == []
    assert differences(long, short) == ["iterations: 200 -> 100"]
