import json
import math

import pytest
import torch
from pycocotools import mask as rle
from torch import nn
from training_stand_in import Squares, StandIn

from fbnet_lesson.training.detecting import detect, detections_to_coco, encode_masks
from fbnet_lesson.training.evaluation import evaluate, headline, table
from fbnet_lesson.training.scoring import average_precision


class Oracle(nn.Module):
    """Finds exactly what is in the data set, changed by ``change(index, detection)``."""

    def __init__(self, dataset, change=lambda index, detection: detection):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.dataset, self.change, self.seen, self.modes = dataset, change, 0, []

    def forward(self, images):
        self.modes.append(self.training)
        results = []
        for _ in images:
            _, target = self.dataset[self.seen]
            detection = {key: target[key].clone() for key in ("boxes", "labels", "masks")}
            detection["scores"] = torch.linspace(0.9, 0.5, len(target["labels"]))
            results.append(self.change(self.seen, detection))
            self.seen += 1
        return results


def without(count):
    return lambda index, detection: {key: value[count:] for key, value in detection.items()}


def test_perfect_detections_have_an_ap_of_1():
    dataset = Squares(10)
    metrics = evaluate(Oracle(dataset), dataset, batch_size=3)
    for kind in ("box", "mask"):
        assert metrics[kind]["AP"] == metrics[kind]["AP50"] == metrics[kind]["AR100"] == 1.0
        assert metrics[kind]["per_class"] == {"red": 1.0, "green": 1.0}
    assert metrics["images"] == 10


def test_without_any_detection_the_ap_is_0_for_masks_too():
    dataset = Squares(6)
    metrics = evaluate(Oracle(dataset, without(99)), dataset)
    assert metrics["detections"] == 0
    assert metrics["box"]["AP"] == metrics["mask"]["AP"] == 0.0


def test_without_any_ground_truth_the_ap_is_not_a_number():
    dataset = Squares(5)
    dataset.boxes_and_labels = lambda index: (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    metrics = evaluate(StandIn(), dataset)
    assert math.isnan(metrics["box"]["AP"]) and math.isnan(metrics["mask"]["per_class"]["red"])


def test_a_class_that_is_never_found_counts_0_and_the_other_1():
    dataset = Squares(12)

    def only_red(index, detection):
        return {key: value[detection["labels"] == 0] for key, value in detection.items()}

    metrics = evaluate(Oracle(dataset, only_red), dataset)
    assert metrics["box"]["per_class"] == {"red": 1.0, "green": 0.0}
    assert metrics["box"]["AP"] == 0.5


def test_a_box_of_iou_two_thirds_counts_at_the_thresholds_below_it():
    truth = {
        "images": [{"id": 1, "height": 20, "width": 20}],
        "categories": [{"id": 5, "name": "thing"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 5, "bbox": [0, 0, 10, 10], "area": 100,
             "iscrowd": 0, "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]]}
        ],
    }  # fmt: skip
    found = [{"image_id": 1, "category_id": 5, "bbox": [0, 0, 15, 10], "score": 0.9}]
    metrics = average_precision(truth, found, "bbox")
    assert metrics["AP50"] == pytest.approx(1.0) and metrics["AP75"] == 0.0
    assert metrics["AP"] == pytest.approx(0.4)  # 0.50, 0.55, 0.60, 0.65 of ten thresholds
    assert "iscrowd" in truth["annotations"][0] and "ignore" not in truth["annotations"][0]


def test_masks_are_scored_apart_from_boxes():
    dataset = Squares(6)

    def half_masks(index, detection):
        detection["masks"][:, :, ::2] = False
        return detection

    metrics = evaluate(Oracle(dataset, half_masks), dataset)
    assert metrics["box"]["AP"] == 1.0
    assert metrics["mask"]["AP75"] == 0.0


def test_a_detector_without_masks_has_no_mask_metrics():
    dataset = Squares(4)

    def boxes_only(index, detection):
        return {key: detection[key] for key in ("boxes", "labels", "scores")}

    metrics = evaluate(Oracle(dataset, boxes_only), dataset)
    assert metrics["mask"] is None and metrics["box"]["AP"] == 1.0
    assert headline(metrics) == "box AP 1.000 (AP50 1.000)"


def test_a_data_set_of_boxes_alone_is_no_truth_about_masks():
    dataset = Squares(4)
    dataset.has_masks = False
    assert evaluate(Oracle(dataset), dataset)["mask"] is None


def test_an_object_of_which_only_the_box_is_known_does_not_count_for_masks():
    dataset = Squares(6)
    truth = dataset.coco_ground_truth()
    first = truth["annotations"][0]
    first["has_mask"] = False
    dataset.coco_ground_truth = lambda: truth

    def a_part_of_the_first(index, detection):
        if dataset.image_ids[index] == first["image_id"]:
            detection["masks"][0, :, ::2] = False
        return detection

    metrics = evaluate(Oracle(dataset, a_part_of_the_first), dataset)
    assert metrics["mask"]["AP"] == 1.0 and metrics["box"]["AP"] == 1.0
    assert sum(metrics["objects"].values()) == len(truth["annotations"])
    del first["has_mask"]
    assert evaluate(Oracle(dataset, a_part_of_the_first), dataset)["mask"]["AP"] < 0.95


def test_a_data_set_without_images_is_an_error():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(StandIn(), Squares(0))


def test_it_prints_nothing_and_leaves_each_module_in_its_mode(capsys):
    model = StandIn().train()
    model.backbone.trunk0.eval()
    evaluate(model, Squares(3))
    assert capsys.readouterr().out == ""
    assert model.training and model.backbone.trunk1.training
    assert not model.backbone.trunk0[1].training
    oracle = Oracle(Squares(3)).train()
    evaluate(oracle, Squares(3), batch_size=2)
    assert oracle.modes == [False, False] and oracle.training


def test_detections_become_coco_results_that_survive_json():
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 1:3, 2:5] = True
    detection = {
        "boxes": torch.tensor([[2.0, 1.0, 5.0, 3.0]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.5]),
        "masks": mask,
    }
    (result,) = json.loads(json.dumps(detections_to_coco([detection], [42], [3, 7])))
    assert result["image_id"] == 42 and result["category_id"] == 7 and result["score"] == 0.5
    assert result["bbox"] == [2.0, 1.0, 3.0, 2.0]
    assert torch.equal(torch.from_numpy(rle.decode(result["segmentation"])).bool(), mask[0])


def test_masks_are_encoded_as_pycocotools_does_one_by_one():
    masks = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0)) > 0.5
    for encoded, mask in zip(encode_masks(masks), masks, strict=True):
        assert torch.equal(torch.from_numpy(rle.decode(encoded)).bool(), mask)
    assert encode_masks(masks[:0]) == []


def test_the_batch_size_does_not_change_what_is_found():
    model = StandIn()
    assert detect(model, Squares(7), batch_size=1) == detect(model, Squares(7), batch_size=1)
    one = detect(model, Squares(7), batch_size=1).results
    three = detect(model, Squares(7), batch_size=3).results
    assert [d["image_id"] for d in one] == [d["image_id"] for d in three]


def test_the_table_has_a_row_for_boxes_and_masks_and_a_line_for_each_class():
    lines = table(evaluate(Oracle(Squares(6)), Squares(6))).splitlines()
    assert lines[1].split()[:2] == ["box", "1.000"] and lines[2].split()[:2] == ["mask", "1.000"]
    assert lines[3:] == ["red: mask AP 1.000, 4 objects", "green: mask AP 1.000, 4 objects"]
