"""What torch's exporter and ONNX Runtime's quantiser print and log beside their results, kept from the terminal.

It is told to these libraries alone and once: switching the process's own streams or logging for a moment would take
them from whatever else runs in it.
"""

import logging
import warnings
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

QUANTISER = "onnxruntime.quantization"


@cache
def silence_exporter() -> None:
    """Keep torch from printing graphs that it cannot export, and from logging what is no concern of a user's."""
    setattr(import_module("torch.export._trace"), "print", hush)  # noqa: B010 - the module has no such name yet
    for name in ("torch.onnx", "torch.fx.experimental.symbolic_shapes"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
    warnings.filterwarnings("ignore", "# The axis name: batch will not be used", UserWarning)  # of a second input


@cache
def silence_quantiser() -> None:
    """Keep ONNX Runtime's quantiser from printing, and its log, which goes to the root logger, in one of its own."""
    own = logging.getLogger(QUANTISER)
    own.setLevel(logging.CRITICAL)
    for name in ("calibrate", "quantize", "qdq_quantizer", "base_quantizer", "onnx_quantizer", "quant_utils"):
        module = import_module(f"{QUANTISER}.{name}")
        setattr(module, "print", hush)  # noqa: B010 - likewise
        if isinstance(getattr(module, "logging", None), ModuleType):
            setattr(module, "logging", own)  # noqa: B010


def hush(*values: Any, **options: Any) -> None:
    """Print nothing."""
