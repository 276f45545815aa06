"""Makes golden_small.json.gz and golden_small.npz: the part of ../shared/golden that the tests
need on every machine. Run from the repository's root; the recorded numbers are copied, not made.
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
FIELDS = ("state_dict", "parameters_order", "param_counts", "weight_rule", "inputs", "ground_truth")


def wanted(name: str) -> bool:
    """Stages that are small: their agreement implies that of all before them."""
    parts = (".proposals.", ".det.", ".post.", ".post_scaled.", "bitmask_bits")
    whole = ("train.param_grad_l2_bitmask", "image_sizes")
    return (any(p in name for p in parts) and not name.startswith("train.")) or name in whole


def main() -> None:
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
    here = Path(__file__).parent
    text = json.dumps(manifests).encode()
    (here / "golden_small.json.gz").write_bytes(gzip.compress(text, mtime=0))
    np.savez_compressed(here / "golden_small.npz", **arrays)


if __name__ == "__main__":
    main()
