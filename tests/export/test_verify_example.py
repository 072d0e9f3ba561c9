"""What verification says of a bundle whose stored example its graphs miss: `score` would not begin with it."""

import io
from pathlib import Path

import numpy as np
import pytest
import small_bundle

from glassrt.engine.bundles.bundle import open_bundle
from glassrt.engine.errors import BackendUnavailable
from glassrt.engine.runtimes.open import open_backend
from glassrt.export.verify import verify

PLACES = 4 * 4


def turn_places(folder: Path, places: int) -> None:
    """Store other logits for so many places of the example, by hardly anything, which make them of the other class."""
    example = np.load(folder / "example.npz")
    image, logits = example["image"], example["logits"].copy()
    margins = (logits[0, 1] - logits[0, 0]).ravel()
    for place in np.argsort(np.abs(margins))[:places]:
        at = divmod(int(place), 4)
        logits[0, 1][at] = logits[0, 0][at] - np.sign(margins[place]) * 1e-6
    stored = io.BytesIO()
    np.savez_compressed(stored, image=image, logits=logits)
    small_bundle.pin(folder, "example.npz", stored.getvalue())


def test_a_graph_that_misses_its_example_does_not_pass(tmp_path: Path) -> None:
    folder = small_bundle.make_bundle(tmp_path / "small.glass")
    bundle = open_bundle(folder)
    known = bundle.read_example()
    assert known is not None
    told: list[str] = []
    checks = verify(bundle, known.inputs, told=told.append)
    assert {check.passed for check in checks if check.precision == "fp32"} == {True}
    assert not told
    turn_places(folder, 5)
    turned = open_bundle(folder)
    with pytest.raises(BackendUnavailable, match=r"31\.25% of it in another class"):
        open_backend(turned, "ort")
    checks = verify(turned, known.inputs, told=told.append)
    assert not any(check.passed for check in checks)
    assert len(told) == len(checks)
    assert all("does not compute what" in line for line in told)
    for check in checks:
        if check.precision == "fp32":
            assert check.is_within, "its windows are as they should be: the example alone is not"
