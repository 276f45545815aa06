import copy
import io

import pytest
import torch
from training_stand_in import StandIn

from fbnet_lesson.freezing import freeze_stages
from fbnet_lesson.training.ema import EMA


def frozen_model(k=2):
    model = StandIn()
    freeze_stages(model, k)
    return model


def statistics_move(model):
    """Which stages' norms change their running mean in a training step."""
    norms = [stage[1] for stage in model.backbone]
    before = [norm.running_mean.clone() for norm in norms]
    model.train()
    model.backbone(torch.rand(2, 3, 32, 32))
    return [not torch.equal(b, norm.running_mean) for b, norm in zip(before, norms, strict=True)]


def test_it_freezes_the_first_stages_and_says_which(capsys):
    model = StandIn()
    assert freeze_stages(model, 2) == ["trunk0", "trunk1"]
    trainable = [[p.requires_grad for p in stage.parameters()] for stage in model.backbone]
    assert trainable == [[False] * 3, [False] * 3, [True] * 3]
    expected = "frozen: trunk0, trunk1 (1,120 parameters and the norm statistics)\n"
    assert capsys.readouterr().out == expected


def test_frozen_norms_keep_their_statistics_in_training_mode():
    assert statistics_move(frozen_model()) == [False, False, True]


def test_setting_the_mode_of_each_module_by_hand_does_not_thaw_it():
    model = frozen_model()
    for module in model.modules():
        module.train()
    assert [stage[1].training for stage in model.backbone] == [False, False, True]


def test_a_deepcopy_is_frozen_and_bound_to_itself():
    model = frozen_model()
    copied = copy.deepcopy(model)
    assert statistics_move(copied) == [False, False, True]
    stage = copied.backbone.trunk0
    assert stage.train(True) is stage  # not the original


def test_the_average_of_the_weights_and_a_pickle_are_frozen_too():
    assert statistics_move(EMA(frozen_model(), 0.9).module) == [False, False, True]
    file = io.BytesIO()
    torch.save(frozen_model(), file)
    file.seek(0)
    assert statistics_move(torch.load(file, weights_only=False)) == [False, False, True]


def test_the_keys_of_the_state_dict_stay_and_loading_does_not_thaw():
    model = frozen_model()
    state = StandIn(seed=1).state_dict()
    assert model.state_dict().keys() == state.keys()
    model.load_state_dict(state)
    assert torch.equal(model.backbone.trunk0[0].weight, state["backbone.trunk0.0.weight"])
    assert statistics_move(model) == [False, False, True]


def test_freezing_nothing_prints_nothing(capsys):
    assert freeze_stages(StandIn(), 0) == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("k", [-1, 4])
def test_a_number_of_stages_that_is_not_there_is_an_error(k):
    with pytest.raises(ValueError, match=f"freeze_stages={k} .* 0 to 3, .*trunk0, trunk1, trunk2"):
        freeze_stages(StandIn(), k)


def test_a_model_without_trunk_stages_is_an_error():
    with pytest.raises(ValueError, match="Linear has no trunk stages"):
        freeze_stages(torch.nn.Linear(1, 1), 1)
