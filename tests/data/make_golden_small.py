"""Makes golden_small (detectors) and golden_cls (classifiers), .json.gz and .npz: the part of
../shared/golden that the tests need on every machine. Run from the repository's root; the recorded
numbers are copied, not made.
"""

import gzip
import json
from pathlib import Path

import numpy as np

GOLDEN = Path("../shared/golden")
CONFIGS = [
    f"{kind}_rcnn_{net}"
    for net in ("fbnetv3a_dsmask_C4", "fbnetv3a_C4", "fbnetv3g_fpn")
    for kind in ("mask", "faster")
]
CLASSIFIER_FIELDS = (
    "state_dict",
    "weight_rule",
    "input",
    "param_count",
    "macs",
    "norm_eps",
    "norm_momentum",
)
FIELDS = ("state_dict", "parameters_order", "param_counts", "weight_rule", "inputs", "ground_truth")


def wanted(name: str) -> bool:
    """Stages that are small: their agreement implies that of all before them."""
    parts = (".proposals.", ".det.", ".post.", ".post_scaled.", "bitmask_bits")
    whole = ("train.param_grad_l2_bitmask", "image_sizes")
    return (any(p in name for p in parts) and not name.startswith("train.")) or name in whole


def norm_momenta(manifest: dict) -> dict[str, float]:
    """The momentum of each norm by its name, for the networks that have several."""
    return {
        f"backbone.stages.{block['name']}.{layer['name']}": layer["momentum"]
        for block in manifest["blocks"]
        for layer in block["layers"]
        if layer["kind"] == "norm"
    }


def save(name: str, manifests: dict, arrays: dict) -> None:
    here = Path(__file__).parent
    text = json.dumps(manifests).encode()
    (here / f"{name}.json.gz").write_bytes(gzip.compress(text, mtime=0))
    np.savez_compressed(here / f"{name}.npz", **arrays)


def classifiers() -> None:
    manifests, arrays = {}, {}
    for path in sorted(GOLDEN.glob("cls_*.json")):
        origin, name = path.stem.removeprefix("cls_").split("_", 1)
        name = f"{origin.replace('mobilecv', 'mobile_cv')}/{name}"
        manifest = json.loads(path.read_text())
        manifests[name] = {key: manifest[key] for key in CLASSIFIER_FIELDS}
        if len(manifest["norm_momentum"]) > 1:
            manifests[name]["norm_momentum"] = norm_momenta(manifest)
        if path.with_suffix(".npz").exists():
            arrays[name] = np.load(path.with_suffix(".npz"))["logits"]
    save("golden_cls", manifests, arrays)


def detectors() -> None:
    manifests, arrays = {}, {}
    for config in CONFIGS:
        manifest = json.loads((GOLDEN / f"{config}.json").read_text())
        manifests[config] = {key: manifest[key] for key in FIELDS}
        training = manifest["training"]  # "losses" is with polygons, where there are masks
        manifests[config]["losses"] = training.get("losses_bitmask", training["losses"])
        if config.startswith("mask"):
            for name, array in np.load(GOLDEN / f"{config}.npz").items():
                if wanted(name):
                    arrays[f"{config}/{name}"] = array
                elif name.startswith(("feat.", "bottom_up.")) and name.endswith(".sample"):
                    arrays[f"{config}/{name}"] = array[::29]
    save("golden_small", manifests, arrays)


if __name__ == "__main__":
    detectors()
    classifiers()
