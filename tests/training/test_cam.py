"""Patch labels, class activation maps, and the pseudo-masks they make together."""

from pathlib import Path

import numpy as np
import torch

from glassrt.training.cam import activation_map, pseudo_mask, window_activations
from glassrt.training.datasets.patches import absent_classes, label_patches
from glassrt.training.methods import segment
from glassrt.training.networks.classifier import PatchClassifier


def test_patches_are_labelled_by_what_covers_a_twentieth() -> None:
    mask = np.zeros((112 + 56, 112), np.uint8)
    mask[:6] = 1  # 6 of 112 rows of the upper patch: 5.4 %
    upper, lower = label_patches([mask], 2, 112, 56)
    assert (upper.left, upper.top, *upper.present) == (0, 0, True, True)
    assert (lower.left, lower.top, *lower.present) == (0, 56, True, False)
    mask[:] = 1
    mask[:5] = 0  # 4.5 %
    assert [tuple(patch.present) for patch in label_patches([mask], 2, 112, 56)] == [(False, True), (False, True)]


def test_patches_of_glas_lie_as_published(data: Path) -> None:
    """A 775 x 522 image has 13 x 9 patches at stride 56, the last of each row ending at the border."""
    (sample, *_) = segment.load_samples(data, "train")
    patches = label_patches([sample.mask], 2, 112, 56)
    assert len(patches) == 13 * 9
    assert max(patch.left for patch in patches) == 775 - 112
    assert max(patch.top for patch in patches) == 522 - 112


def test_classes_that_no_label_allows_are_absent() -> None:
    mask = np.zeros((96, 96), np.uint8)
    mask[:, 48:] = 1
    absent = absent_classes(mask.shape, 2, label_patches([mask], 2, 48, 24))
    assert absent[1, :, :48].all()
    assert absent[0, :, 48:].all()
    assert not absent[0, :, :48].any()
    assert not absent[1, :, 48:].any()


def test_pseudo_masks_take_the_largest_class_that_is_allowed() -> None:
    activations = np.array([[[1.0, 1.0, -5.0]], [[2.0, 0.5, -7.0]]], np.float32)
    absent = np.array([[[False, True, False]], [[False, False, False]]])
    assert pseudo_mask(activations, absent).tolist() == [[1, 1, 0]]


def test_merged_activations_are_the_mean_of_their_windows() -> None:
    torch.manual_seed(0)
    network = PatchClassifier(2, "resnet18", 16).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    merged = activation_map(network, pixels, 1.0, (1.0, 1.5), 96, 32)
    windows = window_activations(network, [pixels[:, left : left + 96] for left in (0, 32)], 1.0, (1.0, 1.5))
    assert np.allclose(merged[:, :, :32], windows[0][..., :32], atol=1e-5)
    assert np.allclose(merged[:, :, 32:96], (windows[0][..., 32:] + windows[1][..., :64]) / 2, atol=1e-5)
    assert np.allclose(merged[:, :, 96:], windows[1][..., 64:], atol=1e-5)
    mirrored = activation_map(network, np.ascontiguousarray(pixels[:, ::-1]), 1.0, (1.0, 1.5), 96, 32)
    assert np.allclose(mirrored[..., ::-1], merged, atol=1e-4)
