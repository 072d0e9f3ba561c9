"""Runs that a benchmark trains and scores: each once, so that a stopped benchmark goes on."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from glassrt.engine.files import replace_file


def score_once(run: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The scores of the finished run in folder `run`: from `scores.json` beside its model, else measured and kept."""
    file = run / "scores.json"
    model = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    known = msgspec.json.decode(file.read_bytes()) if file.exists() else {}
    if known.get("model") == model:
        return dict(known["scores"])
    scores = measure()
    with replace_file(file) as beside:
        beside.write_bytes(msgspec.json.encode({"model": model, "scores": scores}))
    return scores
