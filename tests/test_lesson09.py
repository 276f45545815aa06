"""Lesson 09's plain form of COCO's numbers is pycocotools', on what the shipped weights find."""

import math

import pytest

import fbnet_lesson as fl
from fbnet_lesson.course.exercises import EXERCISES, lesson09
from fbnet_lesson.data.shapes import ShapesDataset
from fbnet_lesson.data.transforms import eval_transform
from fbnet_lesson.training.detecting import detect
from fbnet_lesson.training.scoring import SUMMARY, average_precision

FAULTS = {
    "class_ap": (
        "averages the images",
        "does not sort the images' detections together",
        "expects ignored objects to be found",
    ),
    "match_detections": (
        "lets two detections take one object",
        "never takes an ignored object",
        "forgets the threshold",
    ),
}


@pytest.fixture(scope="module")
def truth_and_found():
    """COCO's two files: 200 scenes, and what is detected in them."""
    scenes = ShapesDataset(200, seed=0, transform=eval_transform())
    model = fl.create_model("lesson/mask_rcnn_tiny", weights="shapes")
    return scenes.coco_ground_truth(), detect(model, scenes).results


def gaps(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    """How far apart each number is; infinitely, where one of the two is nan."""
    return {name: gap(ours[name], theirs[name]) for name in ours}


def gap(a: float, b: float) -> float:
    if math.isnan(a) or math.isnan(b):
        return 0.0 if math.isnan(a) and math.isnan(b) else math.inf
    return abs(a - b)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_twelve_numbers_of_200_scenes_are_pycocotools(truth_and_found, kind):
    ours = lesson09.summary(*truth_and_found, kind)
    theirs = average_precision(*truth_and_found, kind)
    per_class = ours.pop("per_class")
    assert tuple(ours) == SUMMARY
    assert max(gaps(ours, theirs).values()) < 1e-12
    assert max(gaps(per_class, theirs["per_class"]).values()) < 1e-12
    sizes = {name: value for name, value in ours.items() if not math.isnan(value)}
    assert set(SUMMARY) - set(sizes) == {"APl", "ARl"}  # no object is that large: nan
    assert all(0.3 < value < 1 for value in sizes.values())  # neither all right nor all wrong


@pytest.fixture(scope="module")
def of_40_scenes(truth_and_found):
    """As many show a fault."""
    truth, found = truth_and_found
    ids = {image["id"] for image in truth["images"][:40]}
    annotations = [a for a in truth["annotations"] if a["image_id"] in ids]
    fewer = truth | {"images": truth["images"][:40], "annotations": annotations}
    return fewer, [row for row in found if row["image_id"] in ids]


@pytest.mark.parametrize("name, fault", [(n, f) for n, faults in FAULTS.items() for f in faults])
def test_with_a_fault_they_are_not(of_40_scenes, monkeypatch, name, fault):
    exercise = EXERCISES[name]
    (mistake,) = (m for m in exercise.mistakes if m.name == fault)
    wrong = mistake.function(exercise.solution)
    if name == "match_detections":
        monkeypatch.setattr(lesson09, name, wrong)  # where class_ap looks for it
    part = {"class_ap": "ap", "match_detections": "match"}[name]
    ours = lesson09.summary(*of_40_scenes, "bbox", **{part: wrong})
    del ours["per_class"]
    assert max(gaps(ours, average_precision(*of_40_scenes, "bbox")).values()) > 1e-4
