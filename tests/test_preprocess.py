"""A classifier sees pictures as in the published evaluations and answers in ImageNet's names."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from fbnet_lesson.classification.preprocessing import preprocess
from fbnet_lesson.classification.published import PRETRAINED
from fbnet_lesson.inference.classes import classify, imagenet_classes

TIMM = [name for name in PRETRAINED if name.startswith("timm/")]
MOBILE_CV = [name for name in PRETRAINED if name.startswith("mobile_cv/")]
SIZES = [(500, 375), (375, 500), (333, 251), (224, 224), (257, 256), (31, 17), (1, 1), (3, 90)]
MODES = ["L", "LA", "RGBA", "P", "1", "CMYK"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


def in_0_to_1(normalised: torch.Tensor) -> torch.Tensor:
    """``[3, S, S]`` before the normalisation."""
    return normalised * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


def assert_same_pixels(found: torch.Tensor, expected: torch.Tensor):
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert (in_0_to_1(found) - in_0_to_1(expected)).abs().max() < 1e-6  # a pixel step is 4e-3


# -------------------------------------------------------------------------------------- transforms


@pytest.fixture(scope="module")
def timm_transform():
    """timm's own evaluation transform by the name of a network."""
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    def transform(name: str):
        cfg = get_pretrained_cfg(name.removeprefix("timm/")).to_dict()
        return create_transform(**resolve_data_config(cfg), is_training=False)

    return transform


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_of_any_size_becomes_what_timm_makes_of_it(timm_transform, name, size):
    image = noise(*size)
    assert_same_pixels(preprocess(name)(image), timm_transform(name)(image))


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_any_mode_becomes_what_timm_makes_of_its_rgb(timm_transform, mode):
    image = noise(300, 200, mode)
    assert image.mode == mode
    expected = timm_transform(TIMM[0])(image.convert("RGB"))
    assert_same_pixels(preprocess(TIMM[0])(image), expected)


@pytest.mark.parametrize("name", MOBILE_CV)
def test_mobile_cv_resizes_to_a_multiple_of_8_and_crops(name):
    prepare = preprocess(name)
    side = prepare.resolution
    assert prepare.resize % 8 == 0 and 0 <= prepare.resize - side * 256 / 224 < 8
    expected = transforms.Compose(
        [
            transforms.Resize(prepare.resize),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    image = noise(500, 333)
    assert_same_pixels(prepare(image), expected(image))


@pytest.mark.parametrize(
    "name, resize, resolution",
    [
        ("mobile_cv/dmasking_l3", 336, 288),
        ("mobile_cv/fbnet_c", 256, 224),  # 256 / 224 * 224 is a multiple of 8 already
        ("timm/fbnetc_100", 256, 224),
        ("timm/fbnetv3_b", 235, 224),  # 224 / 0.95 = 235.8
        ("timm/fbnetv3_g", 252, 240),
    ],
)
def test_the_sizes_are_those_of_the_origins(name, resize, resolution):
    prepare = preprocess(name)
    assert (prepare.resize, prepare.resolution) == (resize, resolution)


def test_one_colour_is_normalised_to_three_numbers():
    found = preprocess("timm/fbnetc_100")(Image.new("RGB", (9, 5), (255, 0, 51)))
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert found.shape == (3, 224, 224)
    assert torch.allclose(found, torch.tensor(expected)[:, None, None], atol=1e-6)


def test_a_model_is_as_good_as_its_name():
    model = nn.Identity()
    model.name = "timm/fbnetv3_g"
    assert preprocess(model) == preprocess("timm/fbnetv3_g")


def test_the_zoos_own_resize_is_a_replacement_away():
    name = "mobile_cv/dmasking_l3"
    prepare = replace(preprocess(name), resize=PRETRAINED[name].zoo_resize)
    image = noise(400, 324)
    middle = transforms.functional.to_tensor(transforms.functional.center_crop(image, [288, 288]))
    assert (in_0_to_1(prepare(image)) - middle).abs().max() < 1e-6  # 324 pixels high: not resized


def test_a_transform_travels_to_the_processes_of_a_data_loader():
    prepare = preprocess("timm/fbnetc_100")
    assert pickle.loads(pickle.dumps(prepare)) == prepare


@pytest.mark.parametrize("name", ["timm/resnet50", "lesson/mask_rcnn_tiny"])
def test_a_name_without_published_weights_is_refused(name):
    with pytest.raises(ValueError, match=f"no published weights of '{name}'; there are mobile_cv/"):
        preprocess(name)


def test_a_model_without_a_name_is_refused():
    with pytest.raises(ValueError, match="a Identity without a name; expected a model"):
        preprocess(nn.Identity())


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="cannot preprocess a ndarray; expected a PIL image"):
        preprocess("timm/fbnetc_100")(np.zeros((5, 5, 3), np.uint8))


# ----------------------------------------------------------------------------- classes and answers


def test_the_classes_are_torchvisions_in_their_order():
    from torchvision.models import ResNet18_Weights

    assert imagenet_classes() == ResNet18_Weights.DEFAULT.meta["categories"]


def test_no_two_of_the_1000_classes_have_one_name():
    assert len(set(imagenet_classes())) == len(imagenet_classes()) == 1000


def test_the_classes_are_in_the_order_of_timms_synsets():
    from timm.data import ImageNetInfo

    timm = ImageNetInfo("imagenet-1k")
    told_apart = {"crane bird": "crane", "maillot tank suit": "maillot"}  # WordNet has each twice
    for index, name in enumerate(imagenet_classes()):
        words = timm.index_to_description(index).lower().split(", ")
        assert told_apart.get(name, name).lower() in words, index


class Reddest(nn.Module):
    """Logit ln 3 for a tench where there is more red than blue, else for a goldfish; others 0."""

    def __init__(self, classes: int = 1000):
        super().__init__()
        self.name = "timm/fbnetc_100"
        self.classes = nn.Parameter(torch.zeros(classes))

    def forward(self, images):
        assert not self.training and images.shape[1:] == (3, 224, 224)
        red, _, blue = images.mean(dim=(2, 3)).unbind(1)
        logits = self.classes.repeat(len(images), 1)
        logits[torch.arange(len(images)), (red < blue).long()] = np.log(3)
        return logits


def test_each_picture_gets_its_likeliest_classes_by_name(tmp_path):
    files = [tmp_path / "red.png", tmp_path / "blue.png"]
    Image.new("RGB", (50, 40), "red").save(files[0])
    Image.new("RGB", (40, 50), "blue").quantize().save(files[1])
    model = Reddest().train()
    red, blue = classify(model, files, top=3)
    assert [red[0][0], blue[0][0]] == ["tench", "goldfish"]
    assert [p for _, p in red] == pytest.approx([3 / 1002, 1 / 1002, 1 / 1002])
    assert len(blue) == 3 and model.training


def test_other_classes_than_imagenets_are_numbered(tmp_path):
    Image.new("RGB", (30, 30), "red").save(tmp_path / "red.png")
    ((first, *others),) = classify(Reddest(classes=4), [tmp_path / "red.png"], top=4)
    assert first == ("class 0", pytest.approx(0.5)) and len(others) == 3


@pytest.mark.parametrize("top", [0, 1001])
def test_an_impossible_number_of_answers_is_refused(tmp_path, top):
    Image.new("RGB", (30, 30)).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match=f"top={top}: expected 1 to 1000"):
        classify(Reddest(), [tmp_path / "black.png"], top=top)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such picture: .*missing.png"):
        classify(Reddest(), [tmp_path / "missing.png"])
