"""Segmentation bundles of students, from runs that learned what other bundles say."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
from torch import Tensor

from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.errors import TrainingError
from glassrt.export.kinds.made import UNMADE, Made
from glassrt.export.kinds.segmentation import LICENCE, weights_licence
from glassrt.training import checkpoint
from glassrt.training.methods.distil import DistilConfig, Meant


def read(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], name: str) -> Made:
    """A run's network and the manifest of a bundle `name`, at one scale. Raises TrainingError."""
    try:
        config = msgspec.json.decode(metadata["config"], type=DistilConfig)
        meant = msgspec.json.decode(metadata["meant"], type=Meant)
    except (KeyError, msgspec.MsgspecError) as error:
        raise TrainingError(f"{file} was written by another version: train it again ({error})") from error
    manifest = describe(config, meant, name)
    network = config.student.build(manifest.planes)
    checkpoint.load_into(network, tensors, file)
    return Made({"main": network}, manifest)


def describe(config: DistilConfig, meant: Meant, name: str) -> Segmentation:
    """The manifest of what was trained so, but for graphs and examples."""
    student = config.student
    weights = "those of a run" if student.whole else Path(student.weights).name
    taught = ", ".join(
        f"{each.name} at {count(len(each.scales))}" + " with flips" * each.flips for each in meant.teachers
    )
    start = f"The student's encoder started from {weights_licence(student.weights, student.encoder)}."
    if student.whole:
        start = "The student started from the weights of a run of its own network, whose licence applies too."
    own = [*[LICENCE] * bool(meant.dataset), start]
    licences = [*meant.licences, *(each for each in own if not any(each in said for said in meant.licences))]
    return Segmentation(
        name=name,
        classes=meant.classes,
        mpp=meant.mpp,
        window=config.window,
        stride=config.window * 4 // 5,
        output_stride=student.output_stride,
        scales=(1.0,),
        flips=False,
        contour_of=meant.contour_of,
        smallest_um2=meant.smallest_um2,
        teachers=meant.teachers,
        graphs=UNMADE,
        trained=f"{student.name} on {student.encoder} (weights: {weights}), distilled from "
        f"{taught}, on {meant.learned_from}, {config.steps} steps of {config.batch} crops, seed {config.seed}",
        slide_scores=meant.slide_scores,
        overlay=meant.overlay,
        licence=" ".join(licences),
    )


def count(scales: int) -> str:
    """So many scales, in words."""
    return f"{scales} scales" if scales > 1 else "1 scale"
