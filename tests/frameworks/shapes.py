"""A small set for detectors: discs and squares on noise, drawn from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def draw(root: Path, train: int = 96, val: int = 48, size: int = 64, seed: int = 0) -> Path:
    """Images and labels as ultralytics reads them, under `root`; returns the YAML file."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True)
        for number in range(count):
            image = Image.fromarray(rng.integers(0, 120, (size, size, 3), dtype=np.uint8))
            canvas, lines = ImageDraw.Draw(image), []
            for _ in range(rng.integers(1, 3)):
                disc, r = int(rng.integers(2)), int(rng.integers(8, 15))
                x, y = (int(v) for v in rng.integers(r + 1, size - r - 1, 2))
                colour = tuple(int(v) for v in rng.integers(150, 255, 3))
                (canvas.ellipse if disc else canvas.rectangle)((x - r, y - r, x + r, y + r), fill=colour)
                lines.append(f"{disc} {x / size} {y / size} {2 * r / size} {2 * r / size}")
            image.save(root / "images" / part / f"{number}.png")
            (root / "labels" / part / f"{number}.txt").write_text("\n".join(lines))
    data = root / "data.yaml"
    data.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: [square, disc]\n")
    return data
