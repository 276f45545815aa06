"""The published ImageNet weights as files on this machine."""

from importlib.util import find_spec
from pathlib import Path

from fbnet_lesson.classification.published import pretrained
from fbnet_lesson.files import cache_dir
from fbnet_lesson.zoo.download import download, download_from_hub


def pretrained_file(name: str) -> Path:
    """The file with the published weights of the network ``name``, fetched unless it is here.

    mobile_cv's come from its public address into ``cache_dir()``. timm's come from the Hugging Face
    hub into the hub's own cache, so that timm and we share them; where ``huggingface_hub`` is not
    installed, from timm's release into ``cache_dir()``.

    Raises:
        ValueError: for a name without published weights.
        DownloadError: says why, and where to put the file by hand.
    """
    weights = pretrained(name)
    folder = cache_dir() / name.partition("/")[0]
    if weights.hub is not None and find_spec("huggingface_hub") is not None:
        stem = weights.hub.rpartition("/")[2]
        by_hand = folder / (stem + Path(weights.hub_file).suffix)
        return download_from_hub(weights.hub, weights.hub_file, by_hand)
    # mobile_cv calls every file model.pth; the folder above it tells them apart
    address, _, file = weights.url.rpartition("/")
    file = file if file != "model.pth" else address.rpartition("/")[2] + ".pth"
    return download(weights.url, folder / file, weights.sha256)
