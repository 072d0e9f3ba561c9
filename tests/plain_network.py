"""The first network in the box, no longer shipped: PSPNet at the resolution of the GlaS images, without contours.

What it makes of slides and images is stated plainly in a few lines; the shipped one differs in all that may differ.
"""

from pathlib import Path

PSPNET = Path(__file__).parent / "bundles" / "glas-glands-pspnet.glass"
