"""The synthetic weights of the recordings, by the rule in the README of ../shared/golden."""

import math
import re
import zlib

import numpy as np


def golden_weight(key: str, shape: list[int], rule: dict) -> np.ndarray:
    """The weight called ``key`` in the recorded network."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key in rule["explicit"]:
        return np.asarray(rule["explicit"][key], np.float32).reshape(shape)
    noise = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(tuple(shape))
    if key.endswith(".running_mean"):
        weight = 0.1 * noise
    elif key.endswith(".running_var"):
        weight = 1.0 + 0.1 * np.abs(noise)
    elif len(shape) >= 2:
        factor = next((f for pattern, f in rule["factors"] if re.search(pattern, key)), 1.0)
        weight = noise * (math.sqrt(2.0 / math.prod(shape[1:])) * factor)
    elif key.endswith(".bias"):
        weight = 0.1 * noise
    else:
        weight = 1.0 + 0.1 * noise
    return weight.astype(np.float32)
