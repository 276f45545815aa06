"""Loading and saving weights: our own layout and the published ones, recognised by their keys."""

import json
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from fbnet_lesson.files import atomic_file

# Our key -> d2go's key. Each rule rewrites one part of the name; all that match apply, in order.
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
D2GO_MARK = re.compile(r"^(proposal_generator|backbone\.(body|bottom_up))\.")
# Constants that some checkpoints carry and our models take from their config.
CONSTANTS = re.compile(r"^(pixel_mean|pixel_std|proposal_generator\.anchor_generator\..*)$")
# The layers whose shapes depend on the number of classes.
PREDICTORS = re.compile(
    r"^roi_heads\.(box_head\.(cls_score|bbox_pred)|mask_head\.mask_logits)\.(weight|bias)$"
)


def d2go_key(key: str) -> str:
    """What our ``key`` is called in a d2go / detectron2 checkpoint."""
    for pattern, replacement in D2GO_RULES:
        key = re.sub(pattern, replacement, key)
    return key


@dataclass
class LoadReport:
    """What ``load_weights`` did, key by key, in our names."""

    layout: str  # "native" or "d2go"
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # the model has them, the file has not
    unexpected: list[str] = field(default_factory=list)  # the other way round
    wrong_shape: list[str] = field(default_factory=list)  # "key: file [2, 3], model [4, 3]"
    left_out: list[str] = field(default_factory=list)  # predictors of another number of classes

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
        source: a ``.safetensors`` file, a torch file, or a state dict. Taken are our own layout
            and that of d2go / detectron2 (a dict with ``model``, where the averaged weights in
            ``ema_state`` win, or a bare state dict).
        strict: raise ValueError, and change nothing, if a key is missing, unexpected or of
            another shape. False loads what fits.

    A file trained on another number of classes is no error: its predictors are left out, and a
    line is printed that says so. Returns what was loaded and what was not.
    """
    state = read_state_dict(source)
    own = model.state_dict()
    layout = "d2go" if any(D2GO_MARK.match(key) for key in state) else "native"
    names = {d2go_key(key) if layout == "d2go" else key: key for key in own}
    report, fitting = LoadReport(layout), {}
    for key, value in state.items():
        if CONSTANTS.match(key):
            continue
        name = names.get(key)
        if name is None:
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
        raise ValueError(f"these weights{where} do not fit the model:\n{report.problems()}")
    model.load_state_dict(fitting, strict=False)
    if report.left_out:
        print(
            f"left out, because num_classes differs: {', '.join(report.left_out)} "
            "(they keep their random start; train before use)"
        )
    if report.problems():
        print(f"loaded {len(fitting)} of {len(own)} entries{where};\n{report.problems()}")
    return report


def read_state_dict(source: str | os.PathLike | Mapping) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their keys in the file, with ``module.`` taken off.

    Nothing in the file is executed (``weights_only``). ValueError says what is wrong with a file.
    """
    checkpoint = source
    if isinstance(source, str | os.PathLike):
        checkpoint = _read_file(Path(source))
    for key in ("model", "state_dict"):
        if isinstance(checkpoint.get(key), Mapping):
            average = checkpoint.get("ema_state") or checkpoint.get("model_ema") or {}
            checkpoint = {**checkpoint[key], **average}
            break
    state = {key.removeprefix("module."): value for key, value in checkpoint.items()}
    wrong = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if wrong or not state:
        found = f"{wrong[0]!r} is {type(state[wrong[0]]).__name__}" if wrong else "it is empty"
        raise ValueError(f"not a state dict: {found}; expected names of tensors")
    return state


def _read_file(path: Path) -> dict:
    """The content of a safetensors or torch file."""
    if not path.is_file():
        raise ValueError(f"no such weights file: {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and was not executed; "
            f"save its state dict with torch.save ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # both libraries raise many kinds for broken files
        raise ValueError(f"cannot read {path}: it is damaged or cut off ({error})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a state dict")
    return content


def save_weights(model: nn.Module, path: str | os.PathLike, **notes: str) -> None:
    """Write the state dict as safetensors, with the model's name and ``notes`` as its metadata.

    The file appears under its name only when it is complete.
    """
    from safetensors.torch import save

    metadata = {key: str(value) for key, value in notes.items()}
    if hasattr(model, "config"):
        metadata |= {"name": model.name, "config": json.dumps(asdict(model.config))}
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    with atomic_file(Path(path)) as file:
        file.write(save(state, metadata))
