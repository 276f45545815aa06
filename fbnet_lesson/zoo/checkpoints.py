"""Loading and saving weights: our own layout and the published ones, recognised by their keys."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fbnet_lesson.files import atomic_file
from fbnet_lesson.zoo.weight_files import read_weights

# Our key -> theirs. Each rule rewrites one part of the name; all that match apply, in order.
D2GO_RULES = (
    (r"\.norm\.", ".bn."),
    (r"\.se\.reduce\.", ".se.se.0.conv."),
    (r"\.se\.expand\.", ".se.se.1."),
    (r"^backbone\.trunk\.trunk(\d+)\.(\d+)\.", r"backbone.bottom_up.trunk\1.fbnetv2_\1_\2."),
    (r"^backbone\.trunk(\d+)\.(\d+)\.", r"backbone.body.trunk\1.fbnetv2_\1_\2."),
    (r"^backbone\.(lateral|output)\.p(\d)\.conv\.", r"backbone.fpn_\1\2."),
    (r"^backbone\.(lateral|output)\.p(\d)\.bn\.", r"backbone.fpn_\1\2.norm."),
    (r"^rpn\.head\.feature\.(\d+)\.", r"proposal_generator.rpn_head.rpn_feature.0.fbnetv2_0_\1."),
    (r"^rpn\.head\.", "proposal_generator.rpn_head.rpn_regressor."),
    (r"^roi_heads\.box_head\.body\.(\d+)\.", r"roi_heads.box_head.roi_box_conv.0.fbnetv2_0_\1."),
    (r"^roi_heads\.box_head\.(cls_score|bbox_pred)\.", r"roi_heads.box_predictor.\1."),
    (
        r"^roi_heads\.mask_head\.body\.(\d+)\.",
        r"roi_heads.mask_head.feature_extractor.0.fbnetv2_0_\1.",
    ),
    (r"^roi_heads\.mask_head\.mask_logits\.", "roi_heads.mask_head.predictor.mask_fcn_logits."),
)
# mobile_cv's stage 0 is the stem by itself: our trunk0 is its stages 0 and 1.
MOBILE_CV_RULES = (
    (r"\.norm\.", ".bn."),
    (r"\.se\.reduce\.", ".se.se.0.conv."),
    (r"\.se\.expand\.", ".se.se.1."),
    (r"^backbone\.trunk0\.0\.", "backbone.stages.xif0_0."),
    (r"^backbone\.trunk0\.(\d+)\.", lambda m: f"backbone.stages.xif1_{int(m[1]) - 1}."),
    (
        r"^backbone\.trunk(\d)\.(\d+)\.",
        lambda m: f"backbone.stages.xif{int(m[1]) + 1}_{m[2]}.",
    ),
    (r"\.(xif[1-5]_\d+)\.(conv|bn)\.", r".\1.conv.\2."),  # a skip to another width
    (r"^head\.conv\.", "backbone.stages.xif6_0."),
    (r"^head\.(pw|pwl)\.", r"backbone.stages.xif6_0.\1."),
    (r"^head\.classifier\.", "head.conv."),
)
# timm's names of our modules: outside the blocks, in a block, and in one without the expansion.
TIMM_NAMES = {
    "backbone.trunk0.0.conv": "conv_stem",
    "backbone.trunk0.0.norm": "bn1",
    "head.conv.conv": "conv_head",
    "head.conv.norm": "bn2",
    "head.pw.conv": "blocks.6.0.conv",
    "head.pw.norm": "blocks.6.0.bn1",
    "head.pwl.conv": "conv_head",
    "head.classifier": "classifier",
}
TIMM_BLOCK = {
    "pw.conv": "conv_pw",
    "pw.norm": "bn1",
    "dw.conv": "conv_dw",
    "dw.norm": "bn2",
    "se.reduce": "se.conv_reduce",
    "se.expand": "se.conv_expand",
    "pwl.conv": "conv_pwl",
    "pwl.norm": "bn3",
}
TIMM_BLOCK_WITHOUT_PW = TIMM_BLOCK | {"dw.norm": "bn1", "pwl.conv": "conv_pw", "pwl.norm": "bn2"}

# The keys by which a layout is recognised; without any of them it is ours.
MARKS = {
    "d2go": re.compile(r"^(proposal_generator|backbone\.(body|bottom_up))\."),
    "mobile_cv": re.compile(r"^backbone\.stages\.xif\d"),
    "timm": re.compile(r"^(conv_stem|blocks\.\d+\.\d+)\."),
}
# Constants that some checkpoints carry and our models take from their config.
CONSTANTS = re.compile(r"^(pixel_mean|pixel_std|proposal_generator\.anchor_generator\..*)$")
# The layers whose shapes depend on the number of classes.
PREDICTORS = re.compile(
    r"^(roi_heads\.(box_head\.(cls_score|bbox_pred)|mask_head\.mask_logits)|head\.classifier)"
    r"\.(weight|bias)$"
)
# A classifier's head in any layout, which a model that has none does without.
CLASSIFIER_HEAD = re.compile(
    r"^(head|backbone\.stages\.xif6_0|conv_head|bn2|classifier|blocks\.6\.0\.(conv|bn1))\."
)


def d2go_key(key: str) -> str:
    """What our ``key`` is called in a d2go / detectron2 checkpoint."""
    return _rewrite(key, D2GO_RULES)


def mobile_cv_key(key: str) -> str:
    """What our ``key`` of a classifier is called in a checkpoint of mobile_cv's zoo."""
    return _rewrite(key, MOBILE_CV_RULES)


def _rewrite(key: str, rules: tuple) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def timm_keys(own: Mapping[str, Tensor]) -> dict[str, str]:
    """What the keys of a classifier's state dict are called by timm: our key -> theirs.

    timm begins a stage wherever the width changes, except in the last stage of FBNetV3, and counts
    no block that has no weights. So a key's place depends on the blocks before it.
    """
    is_v3 = any(re.match(r"backbone\..*\.se\.", key) for key in own)
    places, last, stage, index = {}, None, -1, 0  # "trunk1.2" -> "blocks.1.1"
    for key, value in own.items():
        if match := re.fullmatch(r"backbone\.((trunk\d)\.\d+)\.pwl\.conv\.weight", key):
            place, trunk = match.groups()
            group = (trunk, None if is_v3 and trunk == "trunk4" else len(value))
            stage, index = (stage, index + 1) if group == last else (stage + 1, 0)
            places[place], last = f"blocks.{stage}.{index}", group
    keys = {}
    for key in own:
        module, _, tensor = key.rpartition(".")
        match = re.fullmatch(r"backbone\.(trunk\d\.\d+)\.(.+)", module)
        if match and match[1] in places:
            has_pw = f"backbone.{match[1]}.pw.conv.weight" in own
            names = TIMM_BLOCK if has_pw else TIMM_BLOCK_WITHOUT_PW
            keys[key] = f"{places[match[1]]}.{names[match[2]]}.{tensor}"
        else:
            keys[key] = f"{TIMM_NAMES.get(module, module)}.{tensor}"
    return keys


def layout_of(state: Iterable[str]) -> str:
    """The origin of a checkpoint by its keys: "d2go", "mobile_cv" or "timm"; else "native"."""
    return next((name for name, mark in MARKS.items() if any(map(mark.match, state))), "native")


def keys_in(layout: str, own: Mapping[str, Tensor]) -> dict[str, str]:
    """The keys of our state dict ``own`` in a layout: our key -> theirs."""
    if layout == "timm":
        return timm_keys(own)
    rename = {"d2go": d2go_key, "mobile_cv": mobile_cv_key, "native": str}[layout]
    return {key: rename(key) for key in own}


@dataclass
class LoadReport:
    """What ``load_weights`` did, key by key, in our names."""

    layout: str  # "native", "d2go", "mobile_cv" or "timm"
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # the model has them, the file has not
    unexpected: list[str] = field(default_factory=list)  # the other way round
    wrong_shape: list[str] = field(default_factory=list)  # "key: file [2, 3], model [4, 3]"
    # predictors of another number of classes; where the model has no head, the file's names of it
    left_out: list[str] = field(default_factory=list)

    def problems(self) -> str:
        """One line a kind of trouble, empty if there is none."""
        lines = [
            f"{len(keys)} {kind}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
            for kind, keys in (
                ("missing", self.missing),
                ("unexpected", self.unexpected),
                ("of another shape", self.wrong_shape),
            )
            if keys
        ]
        return "\n".join(lines)


def load_weights(
    model: nn.Module,
    source: str | os.PathLike | Mapping,
    strict: bool = True,
) -> LoadReport:
    """Copy weights into ``model``.

    Args:
        source: a ``.safetensors`` file, a torch file, a pickle of arrays, or a state dict. Taken
            are our own layout and those of d2go / detectron2, mobile_cv and timm, with the names of
            wrappers (``module.``, ``_orig_mod.``, ``model.``) or without: a dict with ``model`` or
            ``state_dict``, where an average in ``ema``, ``ema_state`` or ``model_ema`` wins, or a
            bare state dict.
        strict: raise ValueError, and change nothing, if a key is missing, unexpected or of
            another shape. False loads what fits.

    A file trained on another number of classes is no error: its predictors are left out, and a
    line is printed that says so. Nor is a classifier's head for a model without one. Returns what
    was loaded and what was not.
    """
    weights = read_weights(source)
    state = weights.state
    own = model.state_dict()
    layout = layout_of(state)
    names = {theirs: ours for ours, theirs in keys_in(layout, own).items()}
    has_head = any(key.startswith("head.") for key in own)
    report, fitting = LoadReport(layout), {}
    for key, value in state.items():
        if CONSTANTS.match(key):
            continue
        name = names.get(key)
        if name is not None and value.shape == (*own[name].shape, 1, 1):
            value = value[..., 0, 0]  # mobile_cv's classifier is a 1x1 convolution
        if name is None and not has_head and CLASSIFIER_HEAD.match(key):
            report.left_out.append(key)
        elif name is None:
            report.unexpected.append(key)
        elif value.shape == own[name].shape:
            fitting[name] = value
        elif PREDICTORS.match(name):
            report.left_out.append(name)
        else:
            report.wrong_shape.append(
                f"{name}: file {list(value.shape)}, model {list(own[name].shape)}"
            )
    given = {names[key] for key in state if key in names}
    report.missing = [
        key for key in own if key not in given and not key.endswith("num_batches_tracked")
    ]
    report.loaded = list(fitting)
    where = f" from {source}" if isinstance(source, str | os.PathLike) else ""
    if report.problems() and (strict or not fitting):
        raise ValueError(
            f"these weights{where} do not fit the model {getattr(model, 'name', '')}: found "
            f"{len(state)} entries in {layout} layout, expected {len(own)}\n{report.problems()}"
        )
    broken = [key for key, v in fitting.items() if v.is_floating_point() and not _is_finite(v)]
    if broken:
        raise ValueError(
            f"these weights{where} hold NaN or infinite numbers, in {len(broken)} entries: "
            f"{', '.join(broken[:3])}; they come of a training that failed"
        )
    model.load_state_dict(fitting, strict=False)
    if weights.left_aside:
        names = ", ".join(weights.left_aside[:3])
        print(f"left aside, as no part of the network: {len(weights.left_aside)} entries ({names})")
    predictors = [key for key in report.left_out if PREDICTORS.match(key) and key in own]
    if predictors:
        classes = any("cls_score" in key or "classifier" in key for key in predictors)
        reason = "num_classes" if classes else "class_agnostic"
        print(
            f"left out, because {reason} differs: {', '.join(predictors)} "
            "(they keep their random start; train before use)"
        )
    if report.problems():
        print(f"loaded {len(fitting)} of {len(own)} entries{where};\n{report.problems()}")
    return report


def _is_finite(value: Tensor) -> bool:
    return value.is_meta or bool(value.isfinite().all())


def model_fields(model: nn.Module) -> dict:
    """What ``create_model`` needs besides the name to build the model again: plain values."""
    config = getattr(model, "config", None)
    fields = asdict(config) if is_dataclass(config) else {}
    own = {"trunk": getattr(model, "trunk_name", None), "arch": getattr(model, "rows", None)}
    return fields | {name: value for name, value in own.items() if value is not None}


def save_weights(model: nn.Module, path: str | os.PathLike, **notes: Any) -> None:
    """Write the state dict as safetensors, with the model's name and ``notes`` as its metadata:
    texts as they are, other values as JSON.

    The file appears under its name only when it is complete.
    """
    from safetensors.torch import save

    metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in notes.items()}
    if hasattr(model, "config"):
        metadata |= {"name": model.name, "config": json.dumps(model_fields(model))}
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    with atomic_file(Path(path)) as file:
        file.write(save(state, metadata))
