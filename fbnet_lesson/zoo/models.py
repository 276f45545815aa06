"""``create_model`` and ``list_models``: every network by its name, ``ORIGIN/UPSTREAM_NAME``."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fbnet_lesson.classification.architectures import CLASSIFICATION_ARCHS
from fbnet_lesson.classification.classifier import Classifier, ClassifierConfig
from fbnet_lesson.classification.published import IMAGENET_STD, PRETRAINED, pretrained
from fbnet_lesson.detection.architectures import DETECTION_ARCHS, DetectionArch
from fbnet_lesson.detection.config import DetectorConfig
from fbnet_lesson.detection.detector import Detector
from fbnet_lesson.freezing import freeze_stages
from fbnet_lesson.overrides import impossible
from fbnet_lesson.rows import parse_rows
from fbnet_lesson.trunk import ClassifierTrunk
from fbnet_lesson.zoo.archs import Arch, classifier_arch, detection_arch
from fbnet_lesson.zoo.checkpoints import keys_in, layout_of, load_weights
from fbnet_lesson.zoo.pretrained import pretrained_file
from fbnet_lesson.zoo.weight_files import read_weights

PACKAGE = Path(__file__).resolve().parents[1]
# An installed wheel carries data/ as fbnet_lesson/shipped; in a clone it lies beside the package.
SHIPPED = next(p for p in (PACKAGE / "shipped", PACKAGE.parent / "data") if p.is_dir()) / "weights"


@dataclass(frozen=True)
class DetectorSpec:
    """What a name stands for: an architecture, and what differs from ``DetectorConfig()``."""

    arch: str
    masks: bool
    fpn: bool = False
    overrides: dict = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)  # name -> file in data/weights


C4 = {"norm": "naiveSyncBN"}
FPN = {
    "norm": "naiveSyncBN",
    "anchor_sizes": ((32,), (64,), (128,), (256,), (512,)),
    "post_nms_topk": (2000, 1000),
    "min_size": 800,
    "max_size": 1333,
}
TINY = {
    "num_classes": 6,
    "anchor_sizes": ((16, 24, 36, 54, 80),),
    "rpn_batch_size_per_image": 128,
    "pre_nms_topk": (400, 300),
    "post_nms_topk": (100, 50),
    "roi_batch_size_per_image": 48,
    "min_size": 128,
    "max_size": 256,
}
DETECTORS = {
    "d2go/faster_rcnn_fbnetv3a_C4": DetectorSpec("FBNetV3_A", masks=False, overrides=C4),
    "d2go/faster_rcnn_fbnetv3a_dsmask_C4": DetectorSpec(
        "FBNetV3_A_dsmask", masks=False, overrides=C4
    ),
    "d2go/faster_rcnn_fbnetv3g_fpn": DetectorSpec(
        "FBNetV3_G_fpn", masks=False, fpn=True, overrides=FPN
    ),
    "d2go/mask_rcnn_fbnetv3a_C4": DetectorSpec("FBNetV3_A", masks=True, overrides=C4),
    "d2go/mask_rcnn_fbnetv3a_dsmask_C4": DetectorSpec("FBNetV3_A_dsmask", masks=True, overrides=C4),
    "d2go/mask_rcnn_fbnetv3g_fpn": DetectorSpec(
        "FBNetV3_G_fpn", masks=True, fpn=True, overrides=FPN
    ),
    "lesson/faster_rcnn_tiny": DetectorSpec("lesson_tiny", masks=False, overrides=TINY),
    "lesson/mask_rcnn_tiny": DetectorSpec(
        "lesson_tiny",
        masks=True,
        overrides=TINY,
        weights={"shapes": "mask_rcnn_tiny_shapes.safetensors"},
    ),
}


def list_models(pattern: str = "*") -> list[str]:
    """The names that match a shell pattern, sorted: ``list_models("d2go/*")``."""
    return sorted(
        name for name in [*DETECTORS, *CLASSIFICATION_ARCHS] if fnmatchcase(name, pattern)
    )


def create_model(
    name: str,
    num_classes: int | None = None,
    weights: str | os.PathLike | dict[str, Tensor] | None = None,
    trunk: str | None = None,
    arch: Arch | None = None,
    **overrides,
) -> nn.Module:
    """A network by its name, with random weights unless ``weights`` says otherwise.

    Args:
        name: one of ``list_models()``; ``mobile_cv/`` and ``timm/`` are classifiers, the others
            detectors.
        num_classes: of a detector without the background; None keeps the model's own.
        weights: None; the name of weights we ship (``"shapes"``); ``"pretrained"``, a classifier's
            published ones, downloaded once; a file; or a state dict. Where ``num_classes`` differs
            from theirs, the predictors stay random, and that is printed. The published ones of
            ``timm/fbnetc_100`` bring ``norm_eps=1e-3``: beside your own copy of them, pass it too.
        trunk: a classifier whose first stages a detector stands on instead of its own, as many as
            its own. ``weights`` may then be that classifier's: they are the trunk's, the rest
            stays random, and that is printed.
        arch: other rows than the model's own: a name of ``DETECTION_ARCHS`` (of a classifier, of
            ``CLASSIFICATION_ARCHS``), a JSON file, or the rows themselves, see ``zoo.archs``. The
            model remembers the rows, as ``model.rows``, and a run folder with it.
        overrides: fields of ``DetectorConfig`` or ``ClassifierConfig``.

    Raises:
        ValueError: names an unknown model, trunk, arch, field or weights and what is there instead.
        DownloadError: where the published weights cannot be had, see ``pretrained_file``.
    """
    if not isinstance(name, str):
        raise ValueError(f"name is {type(name).__name__}; expected one of list_models()")
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    if name in CLASSIFICATION_ARCHS:
        if trunk is not None:
            raise ValueError(f"trunk={trunk!r} is for detectors; {name} is a classifier")
        if _is_pretrained(weights):
            overrides = {"norm_eps": pretrained(name).norm_eps} | overrides
            weights = pretrained_file(name)
        rows = CLASSIFICATION_ARCHS[name]
        if arch is not None:
            rows = classifier_arch(arch, rows)
        config = ClassifierConfig().override(**({"num_classes": rows.num_classes} | overrides))
        model = Classifier(rows, config, name)
        if arch is not None:
            model.rows = {"trunk": list(rows.stages), "head": rows.head}
    elif name in DETECTORS:
        config = DetectorConfig().override(**(DETECTORS[name].overrides | overrides))
        model = _detector(name, config, trunk, arch)
    else:
        raise ValueError(f"unknown model {name!r}; known are {', '.join(list_models())}")
    if trunk is not None and weights is not None:
        file = pretrained_file(trunk) if _is_pretrained(weights) else find_weights(name, weights)
        _load_detector_or_trunk(model, file)
    elif weights is not None:
        load_weights(model, find_weights(name, weights))
    if config.freeze_stages:
        freeze_stages(model, config.freeze_stages)
    return model


def restore_model(
    source: str | os.PathLike | dict, name: str | None = None, /, **overrides
) -> tuple[nn.Module, dict[str, Any]]:
    """The model that a weights file is of, with all of its weights, and the file's notes.

    Args:
        source: a weights file, the name of weights we ship, or a state dict. What it says of
            itself decides: the model's name and config. Of what says nothing (as published files)
            the number of classes is read off the predictors; ``name`` has to say the rest.
        overrides: fields of its config for use, such as ``score_threshold``.

    Raises:
        ValueError: if the weights are another model's than ``name``, or leave anything random.
    """
    if name is not None:
        source = find_weights(name, source)
    weights = read_weights(source)
    noted = weights.notes.get("name")
    if name is not None and noted not in (None, name):
        raise ValueError(f"{source} holds weights of {noted}, not of {name}; leave the name out")
    if name is None and noted is None:
        raise ValueError(f"{source} does not say of which model it is: name the model")
    fields = dict(weights.notes.get("config", {}))
    fields["freeze_stages"] = 0  # nothing is trained here
    if not weights.notes.get("config") and (classes := _count_classes(name, weights.state)):
        fields["num_classes"] = classes
    model = create_model(name or noted, **{**fields, **overrides})
    report = load_weights(model, source)
    if random := sorted({*report.left_out, *report.missing}):
        raise ValueError(
            f"{source} leaves {len(random)} entries of {model.name} random "
            f"({', '.join(random[:2])}, ...): it is of another number of classes than "
            f"num_classes={model.config.num_classes}; leave num_classes to the file"
        )
    return model.eval(), weights.notes


def _count_classes(name: str, state: Mapping[str, Tensor]) -> int | None:
    """How many classes the predictors of a detector's weights tell apart."""
    with torch.device("meta"):
        own = create_model(name).state_dict()
    theirs = keys_in(layout_of(state), own)
    found = state.get(theirs.get("roi_heads.box_head.cls_score.bias"))
    return None if found is None else len(found) - 1


def _detector(name: str, config: DetectorConfig, trunk: str | None, other: Arch | None) -> Detector:
    """A detector of its own rows or of others, on its own trunk or on a classifier's."""
    spec = DETECTORS[name]
    arch = DETECTION_ARCHS[spec.arch]
    if other is not None:
        if trunk is not None:
            raise ValueError(f"trunk={trunk!r} and arch={other!r} both say the trunk: give one")
        heads = ("rpn", "bbox", "mask") if spec.masks else ("rpn", "bbox")
        rows = detection_arch(other, arch, heads, spec.fpn)
        model = Detector(
            DetectionArch(**rows | {"trunk": tuple(rows["trunk"])}),
            config, spec.masks, spec.fpn, name,
        )  # fmt: skip
        model.rows = rows
        return model
    if trunk is None:
        return Detector(arch, config, spec.masks, spec.fpn, name)
    if not isinstance(trunk, str) or trunk not in CLASSIFICATION_ARCHS:
        raise impossible("trunk", trunk, f"a classifier: {', '.join(CLASSIFICATION_ARCHS)}")
    classifier = CLASSIFICATION_ARCHS[trunk]
    published = PRETRAINED.get(trunk)
    stages = classifier.stages[: len(arch.trunk)]
    if spec.fpn and any(row.padding is not None for text in stages for row in parse_rows(text)):
        raise ValueError(
            f"trunk={trunk!r} does not fit {name}: its paddings make maps that are not half of the "
            "one before, as an FPN needs them; such as timm/fbnetv3_b has none"
        )
    # Whatever the weights: so a run folder's detector is built as it was trained.
    norm_eps = published and published.norm_eps or classifier.style.norm_eps
    style = replace(classifier.style, norm_eps=norm_eps)
    built = ClassifierTrunk(
        stages, config.norm, style, published.std if published else IMAGENET_STD
    )
    model = Detector(arch, config, spec.masks, spec.fpn, name, built)
    model.trunk_name = trunk
    return model


def _load_detector_or_trunk(model: Detector, source) -> None:
    """Weights of a detector on a classifier's trunk, or of the classifier alone."""
    state = read_weights(source).state
    if any(key.startswith(("rpn.", "proposal_generator.")) for key in state):
        load_weights(model, source)
        return
    classifier = create_model(model.trunk_name, features_only=True)
    load_weights(classifier, source)  # which refuses another network's
    state, own = classifier.backbone.state_dict(), model.trunk.state_dict()
    model.trunk.load_state_dict({key: state[key] for key in own})
    stages = ", ".join(model.trunk.channels)
    norm, without = model.config.norm, ""
    if not any("running_mean" in key for key in own):
        without = f" without the statistics of its norms, as {norm} has none"
    print(f"loaded {stages} of {model.trunk_name}{without}; everything else stays random")


def _is_pretrained(weights) -> bool:
    return isinstance(weights, str) and weights == "pretrained"


def find_weights(name: str, weights):
    """The file of shipped weights by their name; anything else as it is."""
    shipped = DETECTORS[name].weights if name in DETECTORS else {}
    if _is_pretrained(weights):
        raise ValueError(
            f"weights='pretrained' are published for classifiers; {name} takes a classifier's with "
            "trunk=, such as trunk='timm/fbnetc_100'"
        )
    if isinstance(weights, str) and weights in shipped:
        return SHIPPED / shipped[weights]
    if isinstance(weights, str) and not Path(weights).exists():
        names = ", ".join(map(repr, shipped)) or "none"
        raise ValueError(f"weights={weights!r}: no such file; shipped for {name}: {names}")
    return weights
