"""A set as large as COCO: how long it takes to check and to open, beside pycocotools' own index.

    python -m fbnet_lesson.benchmarks.index [IMAGES [ANNOTATIONS]]

Makes the set in a temporary folder (by default 118,000 pictures, links to one, and 860,000
annotations with an outline), then does each work in a process of its own: CPU seconds and the
most memory, imports included, and the ratios to ``pycocotools.coco.COCO(file)``.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

SIZE = (640, 480)
WORKS = {
    "pycocotools' index": "from pycocotools.coco import COCO; COCO(file)",
    "data check, pictures not opened": "from fbnet_lesson.data import check_dataset\n"
    'assert check_dataset(file, folder, pictures="none").ok',
    "opening the set, all pictures new": "from fbnet_lesson.data import CocoDataset\n"
    "CocoDataset(file, folder)",
    "opening the set again": "from fbnet_lesson.data import CocoDataset\nCocoDataset(file, folder)",
}


def make_set(folder: Path, images: int, annotations: int) -> Path:
    """Writes a set whose pictures are links to one picture; returns the annotation file."""
    pictures = folder / "images"
    pictures.mkdir()
    draws = random.Random(0)
    first = pictures / "000000000000.jpg"
    Image.effect_noise(SIZE, 60).convert("RGB").save(first, quality=80)
    names = [f"{i:012d}.jpg" for i in range(images)]
    for name in names[1:]:
        os.symlink(first.name, pictures / name)
    objects = []
    for number in range(1, annotations + 1):
        width, height = draws.uniform(8, 200), draws.uniform(8, 200)
        x, y = draws.uniform(0, SIZE[0] - width), draws.uniform(0, SIZE[1] - height)
        corners = [(0.3, 0), (0.8, 0.1), (1, 0.6), (0.7, 1), (0.2, 0.9), (0, 0.4)]
        outline = [round(v, 2) for u, w in corners for v in (x + u * width, y + w * height)]
        objects.append(
            {
                "id": number,
                "image_id": draws.randrange(images),
                "category_id": draws.randrange(1, 81),
                "bbox": [round(v, 2) for v in (x, y, width, height)],
                "area": round(0.7 * width * height, 2),
                "iscrowd": 0,
                "segmentation": [outline],
            }
        )
    file = folder / "set.json"
    content = {
        "images": [
            {"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
            for i, name in enumerate(names)
        ],
        "annotations": objects,
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 81)],
    }
    file.write_text(json.dumps(content))
    return file


def measure(work: str, file: Path, cache: Path) -> tuple[float, float]:
    """CPU seconds and MB at the most of a process that does ``work``."""
    program = (
        f"file, folder = {str(file)!r}, {str(file.parent / 'images')!r}\n{work}\n"
        "import re, sys\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]\n"
        "print(int(peak) / 1024, file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "FBNET_LESSON_CACHE": str(cache)},
        check=True,
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, float(done.stderr.split()[-1])


def main(images: int = 118_000, annotations: int = 860_000) -> None:
    """Print a row for each of ``WORKS``."""
    with tempfile.TemporaryDirectory() as folder:
        file = make_set(Path(folder), images, annotations)
        size = file.stat().st_size / 1e6
        print(f"{images:,} images, {annotations:,} annotations, {size:.0f} MB of JSON")
        print(f"{'':36}{'CPU s':>8}{'ratio':>8}{'MB':>8}{'ratio':>8}")
        theirs = None
        for name, work in WORKS.items():
            ours = measure(work, file, Path(folder) / "cache")
            theirs = theirs or ours
            (cpu, memory), ratios = ours, [a / b for a, b in zip(ours, theirs, strict=True)]
            print(f"{name:36}{cpu:8.1f}{ratios[0]:8.2f}{memory:8.0f}{ratios[1]:8.2f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
