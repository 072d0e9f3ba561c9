"""Contenders that must not be timed; in a file of their own, so that other processes can import them."""

import numpy as np

from glassrt.benchmarks.contender import Contender
from glassrt.engine.bundles.bundle import Bundle


def build_wrong(bundle: Bundle, pixels: np.ndarray) -> Contender:
    shape = pixels.shape[:2]
    return Contender("wrong", "fp32", lambda: np.stack([np.zeros(shape), np.ones(shape)]))


def build_broken(bundle: Bundle, pixels: np.ndarray) -> Contender:
    raise RuntimeError("no such operator\nand pages more")


def build_dying(bundle: Bundle, pixels: np.ndarray) -> Contender:
    raise SystemExit(1)
