"""What a foreign network gives for windows, stated plainly: pixels prepared in NumPy, the file itself in ONNX Runtime,
and what its outputs mean. Bundles are held against this.
"""

from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from glassrt.engine.errors import BundleError, UsageError, first_line
from glassrt.engine.slides.slide import Pixels
from glassrt.export.importing.foreign import CHANNELS_AT, Foreign, find_ending, open_session, tell
from glassrt.export.importing.settings import Activation, Settings

Values = NDArray[np.float32]

FARTHEST = 20.0  # from 0 that the mean of what a network takes may lie
FLATTEST = 0.02  # that its standard deviation may be
BYTES = 255.0  # what pixels span
FARTHEST_LOGIT = 500.0  # beyond which exponentials overflow
SUMS = 1e-3  # how far from 1 probabilities may sum to
ENDINGS: dict[str, Activation] = {"Sigmoid": "sigmoid", "Softmax": "softmax"}  # operations that make probabilities


class Meaning(NamedTuple):
    """What a network's output is: where its channels are, how many, how many pixels of the window each value is of
    (0 of one vector a window), and what the values are.
    """

    channels_at: int
    channels: int
    stride: int
    activation: Activation


class Statement:
    """A foreign network with its preparation in NumPy, one window at a time."""

    def __init__(self, foreign: Foreign, settings: Settings) -> None:
        self._foreign, self._settings = foreign, settings
        self._session: onnxruntime.InferenceSession = open_session(foreign.path)

    def run(self, windows: Pixels) -> NDArray[Any]:
        """Its output for windows `[N, H, W, 3]`, as the network gives it. Raises BundleError where it fails."""
        return np.concatenate([self._run_one(window) for window in np.split(windows, len(windows))])

    def _run_one(self, window: Pixels) -> NDArray[Any]:
        given = prepare(window, self._foreign, self._settings)
        filled = np.repeat(given, self._foreign.batch or 1, axis=0)
        try:
            output: NDArray[Any] = self._session.run([self._foreign.output], {self._foreign.image: filled})[0]
        except Exception as error:  # the runtime's own exceptions share no base but this
            raise BundleError(
                f"{self._foreign.path} does not run on images of {window.shape[1]} x {window.shape[2]} pixels: "
                f"{first_line(error)}"
            ) from error
        if output.shape[:1] != filled.shape[:1]:
            raise BundleError(
                f"{self._foreign.path} gives {tell(output.shape)} for {len(filled)} images: that is not one a window"
            )
        return output[:1]


def prepare(windows: Pixels, foreign: Foreign, settings: Settings) -> NDArray[Any]:
    """What the network takes of windows `[N, H, W, 3]`."""
    given: NDArray[Any] = windows[..., ::-1] if settings.bgr else windows
    if foreign.dtype != "uint8":
        scaled = given.astype(np.float32) / np.float32(settings.scale or 1)
        given = (scaled - settings.channel_means) / settings.channel_stds
    return np.ascontiguousarray(given.transpose(0, 3, 1, 2) if foreign.layout == "nchw" else given)


def check_scaling(tissue: Pixels, foreign: Foreign, settings: Settings) -> None:
    """Raise UsageError where the settings say nothing of the pixels' scale, or make of tissue `[N, H, W, 3]` what no
    network was trained on: nothing else would tell, as a graph is right for any numbers.
    """
    plain = settings.scale is None and (settings.mean, settings.std) == (0.0, 1.0)
    if foreign.dtype == "uint8":
        if not plain:
            raise UsageError(f"{foreign.path} takes bytes as they are: leave `scale`, `mean` and `std` out")
        return
    if settings.scale is None:
        raise UsageError(
            f"`scale` is missing: 255 where {foreign.path.name} takes pixels from 0 to 1 (before `mean` and `std`), "
            "1 where it takes them from 0 to 255"
        )
    given = prepare(tissue, foreign, settings)
    others = tuple(axis for axis in range(4) if axis != CHANNELS_AT[foreign.layout])
    middle, spread = float(np.abs(given.mean(others)).max()), float(given.std(others).max())
    span = BYTES / (settings.scale * settings.channel_stds)  # of the values, in each channel
    as_bytes = bool((np.abs(span / BYTES - 1) < 1e-3).all())  # some networks take them so, less their mean
    farthest = BYTES if as_bytes else FARTHEST
    tiny = as_bytes and 0 < float(np.abs(settings.channel_means).max()) <= 1
    if not (middle <= farthest and spread >= FLATTEST) or tiny:
        raise UsageError(
            f"the network would get values of mean {middle:.4g} and deviation {spread:.2g} of tissue: `scale`, "
            "`mean` and `std` do not fit together (`mean` and `std` are those of pixels divided by `scale`)"
        )


def find_meaning(output: NDArray[Any], foreign: Foreign, settings: Settings) -> Meaning:
    """What an output `[N, ...]` for several windows, of tissue and of none, means.

    Raises BundleError for one that is not of its kind, UsageError where the settings say otherwise.
    """
    if output.dtype != np.float32:
        raise BundleError(
            f"{foreign.path}: its {foreign.output!r} is {output.dtype}, not float32: choose another --output"
        )
    if not np.isfinite(output).all():
        raise BundleError(
            f"{foreign.path}: its {foreign.output!r} holds values that are no numbers, of white or black too"
        )
    if settings.kind == "segmentation":
        at, channels, stride = find_maps(output, foreign, settings)
        values = np.moveaxis(output, at, 1)
    else:
        at, channels, stride = 1, *find_vector(output, foreign, settings)
        values = output.reshape(len(output), channels)
    if settings.kind == "encoder":
        return Meaning(at, channels, stride, "logits")
    return Meaning(at, channels, stride, find_activation(values, foreign, settings))


def find_vector(output: NDArray[Any], foreign: Foreign, settings: Settings) -> tuple[int, int]:
    """The length of one vector a window, and 0."""
    length = output[0].size
    if output.ndim not in (2, 4) or length != max(output.shape[1:]):
        raise BundleError(
            f"{foreign.path}: its {foreign.output!r} is {tell((None, *output.shape[1:]))}; "
            f"{settings.kind} needs one vector a window: choose another --output, or `kind`"
        )
    return length, 0


def find_maps(output: NDArray[Any], foreign: Foreign, settings: Settings) -> tuple[int, int, int]:
    """Which axis of maps holds the channels, how many, and how many pixels of a window each value is of."""
    told = f"{foreign.path}: its {foreign.output!r} is {tell((None, *output.shape[1:]))}"
    if output.ndim != 4:
        raise BundleError(f"{told}, no maps of classes; choose another --output, or `kind`")
    counts = {len(settings.classes)} | ({1} if len(settings.classes) <= 2 else set())
    squares = {1: output.shape[2] == output.shape[3], 3: output.shape[1] == output.shape[2]}
    fitting = [at for at, is_square in squares.items() if is_square and output.shape[at] in counts]
    if not fitting:
        raise UsageError(f"{told}, which is no map of {len(settings.classes)} `classes` over squares")
    at = fitting[0] if len(fitting) == 1 else 1 if foreign.layout == "nchw" else 3
    side = output.shape[2]
    if foreign.window % side:
        raise BundleError(
            f"{told} for windows of {foreign.window} pixels: {side} values do not tile them; another `window` may fit"
        )
    return at, output.shape[at], foreign.window // side


def find_activation(output: NDArray[Any], foreign: Foreign, settings: Settings) -> Activation:
    """What values `[N, C, ...]` are, as said, as the graph ends or as they look. Raises UsageError where they cannot be
    what is said or may be several things.
    """
    channels, said, ending = output.shape[1], settings.activation, find_ending(foreign)
    within = bool(((output >= -SUMS) & (output <= 1 + SUMS)).all())
    shares = within and channels > 1 and bool((np.abs(output.sum(1) - 1) < SUMS).all())
    count = f"{channels} outputs lie" if channels > 1 else "only output lies"
    told = f"{foreign.path}: its {count} from {output.min():.3g} to {output.max():.3g}"
    if channels > 1 and "Sigmoid" in (ending, (said or "").capitalize()):
        raise UsageError(
            f"{foreign.path}: sigmoids of {channels} outputs tell of classes that may overlap, "
            "a bundle's do not: such (multi-label) networks cannot be imported, only those of a single sigmoid"
        )
    if said == "logits" and ending in ENDINGS:
        raise UsageError(
            f"{foreign.path} ends in {ending}, whose values are no logits: leave `activation` out or set it to "
            f'"{ENDINGS[ending]}"'
        )
    if said is None and within and not shares and channels > 1:
        raise UsageError(
            f"{told} and do not sum to 1: say what they are with `activation`; sigmoids of classes that may overlap "
            "(multi-label) cannot be imported"
        )
    if said is None and within and channels == 1 and ending != "Sigmoid":
        raise UsageError(
            f"{told} and not from a Sigmoid at the end of the graph: say with `activation` whether it is a "
            'probability, "sigmoid", or "logits"'
        )
    if said == "sigmoid" and not within:
        raise UsageError(f'{told}: they are no sigmoid, leave `activation` out or set it to "logits"')
    if said == "softmax" and not shares:
        raise UsageError(f"{told} and do not sum to 1: they are no softmax, leave `activation` out")
    if said == "logits" and shares:
        raise UsageError(f'{told} and sum to 1: they are no logits, set `activation` to "softmax" or leave it out')
    return said or ("softmax" if shares else "sigmoid" if ending == "Sigmoid" else "logits")


def undo(logits: Values, meaning: Meaning, order: tuple[int, ...]) -> NDArray[np.float64]:
    """What a foreign network has to have given `[N, C, ...]` for a bundle's logits of all classes `[N, C, ...]`, which
    were put in `order`.
    """
    own: NDArray[np.float64] = np.empty(logits.shape, np.float64)
    own[:, list(order)] = logits
    if meaning.channels == 1:
        own = own[:, 1:] - own[:, :1]
    if meaning.activation == "sigmoid":
        own = 1 / (1 + np.exp(-own.clip(-FARTHEST_LOGIT)))
    if meaning.activation == "softmax":
        powers = np.exp(own - own.max(1, keepdims=True))
        own = powers / powers.sum(1, keepdims=True)
    return own
