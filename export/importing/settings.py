"""What has to be said of a foreign network, as its graph says none of it: pixels, classes, resolution, licence."""

import colorsys
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.kinds.classification import Classification
from glassrt.engine.bundles.kinds.encoder import Encoder
from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.bundles.parts import Channel, ClassInfo, Resolution, Side, Step, Strict, Text
from glassrt.engine.errors import BundleError, UsageError, first_line
from glassrt.export.importing.published import read_published

Layout = Literal["nchw", "nhwc"]
Activation = Literal["logits", "softmax", "sigmoid"]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Kind: TypeAlias = Segmentation | Classification | Encoder  # the kinds that a foreign network may become
BACKGROUND = (200, 200, 200)
TURN = 0.618  # of the circle of hues, from each class to the next: no two that follow are alike
REST = "other"  # what is not the only class that is named


class Named(Strict, frozen=True):
    """A class and its RGB colour, one of a palette if none is given."""

    name: str
    color: tuple[Channel, Channel, Channel] | None = None


class Settings(Strict, frozen=True, kw_only=True):
    """The keys of `bundle.toml`, as `example.toml` shows them. `kind`, `mpp` (micrometres per pixel) and `licence` have
    to be there, and `classes` in the order of the network's outputs, but for encoders.

    `window` is pixels along a side, needed where the graph leaves it open; `stride` is by default all of it for tiles
    and three quarters for segmentation. The network takes `(pixels / scale - mean) / std`: `mean` and `std` are of all
    channels or of each, in the network's order, which is BGR where `bgr`. `layout` is needed where three channels do
    not tell. What its outputs are, `activation`, is found by running it, if not told; `background` names the class that
    has no regions, by default the first. `origin` says in words where it comes from.
    """

    kind: Literal["segmentation", "classification", "encoder"]
    mpp: Resolution
    licence: Text
    classes: tuple[str | Named, ...] = ()
    background: str | None = None
    window: Side | None = None
    stride: Step | None = None
    layout: Layout | None = None
    scale: Positive | None = None
    mean: float | tuple[float, float, float] = 0.0
    std: float | tuple[float, float, float] = 1.0  # bounds within such a union would make msgspec 0.22 crash
    bgr: bool = False
    activation: Activation | None = None
    origin: Text = ""

    def __post_init__(self) -> None:
        if not (self.channel_stds > 0).all():
            raise ValueError("`std` has to be above 0")
        for name in self.names:
            ClassInfo(name, BACKGROUND)  # which raises for what no class may be called
        if self.kind == "encoder":
            if self.classes or self.background or self.activation:
                raise ValueError("an encoder has no `classes`, `background` or `activation`")
            return
        if not self.classes:
            raise ValueError("`classes` is missing: the names of what the network tells apart, in its order")
        if self.background is not None and self.background not in self.names:
            raise ValueError(f"`background` names {self.background!r}, which is none of {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The classes as they were given."""
        return tuple(each if isinstance(each, str) else each.name for each in self.classes)

    @property
    def channel_means(self) -> NDArray[np.float32]:
        """What is taken from each channel, `[3]`."""
        return np.broadcast_to(np.array(self.mean, np.float32), 3)

    @property
    def channel_stds(self) -> NDArray[np.float32]:
        """What each channel is divided by, `[3]`."""
        return np.broadcast_to(np.array(self.std, np.float32), 3)


class Read(NamedTuple):
    """Settings, and what the user has to know of how they were understood."""

    settings: Settings
    notes: tuple[str, ...]


class Classes(NamedTuple):
    """A bundle's classes, the background first, and the number that each had in the network's order."""

    infos: tuple[ClassInfo, ...]
    order: tuple[int, ...]


def load_settings(path: Path, said: Mapping[str, object]) -> Read:
    """The settings in a `bundle.toml`, a WSInfer model's `config.json` or a MONAI bundle's `metadata.json`, with those
    that were `said` elsewhere in place of the file's. Raises UsageError naming the file and the key.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        found: Any = (msgspec.json if path.suffix == ".json" else msgspec.toml).decode(content)
        notes: tuple[str, ...] = ()
        if path.suffix == ".json":
            found, notes = read_published(found, path)
        return Read(msgspec.convert({**found, **said}, Settings), notes)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        line = first_line(error)
        options = [each for each in ("mpp", "licence") if f"missing required field `{each}`" in line]
        hint = f": give --{options[0]}" if options else ""
        raise UsageError(f"{path}: {line}{hint}") from error


@contextlib.contextmanager
def keys_of(path: Path) -> Iterator[None]:
    """Errors that name a key say where it can be written, if the settings came from a file that has no such keys."""
    try:
        yield
    except (BundleError, UsageError) as error:
        named = [key for key in Settings.__struct_fields__ if f"`{key}`" in str(error)]
        if path.suffix != ".json" or not named:
            raise
        raise type(error)(f"{error} ({path.name} has no such key: write a bundle.toml with all of it)") from error


def arrange(settings: Settings, channels: int) -> Classes:
    """The classes of a network with so many outputs; one output tells two apart. Raises UsageError."""
    given = [each if isinstance(each, Named) else Named(each) for each in settings.classes]
    if channels == 1 and len(given) == 1:
        given.insert(0, Named(REST))
    if len(given) != max(channels, 2):
        raise UsageError(f"the network gives {channels} outputs, `classes` names {len(settings.classes)}")
    names = [each.name for each in given]
    first = names.index(settings.background) if settings.background else 0
    order = (first, *(at for at in range(len(given)) if at != first))
    colors = [BACKGROUND, *(pick_color(at) for at in range(len(given) - 1))]
    infos = (ClassInfo(given[at].name, given[at].color or color) for at, color in zip(order, colors, strict=True))
    return Classes(tuple(infos), order)


def pick_color(number: int) -> tuple[int, int, int]:
    """A bright colour unlike that of the number before."""
    red, green, blue = (
        round(255 * each) for each in colorsys.hsv_to_rgb((0.58 + number * TURN) % 1, 0.8, 0.75 + 0.2 * (number % 2))
    )
    return red, green, blue
