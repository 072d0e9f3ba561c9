"""Result files: pyramidal OME-TIFF, GeoJSON, overlay picture, JSON. Each is written to the path given."""

from pathlib import Path
from typing import Any

from glassrt.engine.files import readable_json


def write_json(path: Path, content: Any) -> None:
    """Write a struct or plain values as indented JSON."""
    path.write_bytes(readable_json(content))
