"""Classifying files without a server: one engine in this process, its largest subnet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from superserve.config import Config
from superserve.decode import decode
from superserve.errors import BadImage, ClientError
from superserve.profiling import engine_spec


def classify_here(
    config: Config, files: Sequence[Path], top_k: int
) -> list[list[tuple[str, float]]]:
    """The best labels of each file with their probabilities.

    Raises `ConfigError` as the engine does, and `BadImage` naming the file that is none.
    """
    from superserve.engine import Engine

    contents = [read_image(file) for file in files]
    engine = Engine(engine_spec(config, "cpu"))
    model = engine.models[0]
    step = model.preprocessing
    largest = max(model.accuracies, key=lambda subnet: model.accuracies[subnet])
    rows = []
    for file, content in zip(files, contents, strict=True):
        pixels = np.empty((1, step.height, step.width, step.channels), np.uint8)
        try:
            decode(content, step, pixels[0], max_pixels=config.max_pixels)
        except ClientError as error:
            raise BadImage(f"{file}: {error.message}") from error
        result = engine.run(model.name, largest, pixels, top_k)
        labels = [model.labels[index] for index in result.indices[0]]
        rows.append(list(zip(labels, result.scores[0].tolist(), strict=True)))
    return rows


def read_image(file: Path) -> bytes:
    """The file's bytes; raises `BadImage` if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadImage(f"cannot read {file}: {error.strerror}") from error
