"""Micrometres per pixel: what a scan can have, and what a file and its user say together."""

import math

from glassrt.engine.errors import SlideError, UsageError

PLAUSIBLE_MPP = (0.05, 20.0)  # finer than any objective resolves, coarser than any scan
SQUARE = 0.02  # pixels whose sides differ by less count as square; the mean keeps areas right


def check_mpp(mpp: float, what: str) -> float:
    """`mpp` itself if a scan can have it; else a UsageError that names `what`."""
    low, high = PLAUSIBLE_MPP
    if not low <= mpp <= high:
        raise UsageError(f"{what}: --mpp {mpp:g} is not between {low} and {high} micrometres per pixel")
    return mpp


def check_aspect(x: float, y: float, what: str) -> None:
    """Raise SlideError where the sides of a pixel, in an unknown unit, are not the same."""
    if not square(x, y):
        raise SlideError(
            f"{what}: pixels are not square ({x / y:.3g} times as wide as high), which --mpp cannot mend; "
            "convert the slide first"
        )


def square(x: float, y: float) -> bool:
    """Whether pixels of these sides count as square."""
    return abs(x - y) <= SQUARE * max(x, y)


def choose_mpp(x: float | None, y: float | None, given: float | None, what: str, doubt: str = "") -> float:
    """The side of a square pixel: `given` by the user, or the mean of what the file says of both axes.

    None is what is not said, `doubt` why what is said may not be true. Raises SlideError where pixels are not square,
    whatever is given, and where nothing usable is said; UsageError where no scan has what is given.
    """
    if x and y and 0 < x < math.inf and 0 < y < math.inf and not square(x, y):
        raise SlideError(
            f"{what}: pixels are not square ({x:g} x {y:g} micrometres), which --mpp cannot mend; "
            "convert the slide first"
        )
    if given is not None:
        return check_mpp(given, what)
    if doubt:
        raise SlideError(f"{what}: {doubt}; pass the true value with --mpp")
    if x is None and y is None:
        raise SlideError(f"{what}: the file does not say its resolution; pass it with --mpp")
    if x is None or y is None:
        raise SlideError(f"{what}: the file says its resolution along one axis only; pass it with --mpp")
    for value in (x, y):
        if not PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1]:
            raise SlideError(
                f"{what}: the file claims {value:g} micrometres per pixel, which no scan has; "
                "pass the true value with --mpp"
            )
    return math.sqrt(x * y)
