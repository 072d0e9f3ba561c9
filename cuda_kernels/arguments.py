"""What launchers ask of their arguments, told before anything is launched."""

from collections.abc import Sequence

from glassrt.cuda_kernels.compile import Array, import_cupy


def check_array(name: str, value: Array, shape: Sequence[int | None], dtypes: Sequence[str]) -> None:
    """Raise ValueError unless `value` is a C-contiguous array on the current device; None fits any length."""
    cupy = import_cupy()
    if not isinstance(value, cupy.ndarray):
        raise ValueError(f"{name} must be a CuPy array, not {type(value).__module__}.{type(value).__name__}")
    if value.device.id != cupy.cuda.Device().id:
        raise ValueError(f"{name} lies on device {value.device.id}, not on the current one, {cupy.cuda.Device().id}")
    if value.dtype.name not in dtypes:
        raise ValueError(f"{name} must be {' or '.join(dtypes)}, not {value.dtype.name}")
    fits = value.ndim == len(shape) and all(b is None or a == b for a, b in zip(value.shape, shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if each is None else str(each) for each in shape)
        raise ValueError(f"{name} must have the shape [{wanted}], not {list(value.shape)}")
    if not value.flags.c_contiguous:
        raise ValueError(f"{name} is not contiguous; make a copy of it first")


def check_count(name: str, count: int, low: int, high: int) -> None:
    """Raise ValueError unless low <= count <= high."""
    if not low <= count <= high:
        raise ValueError(f"{name} must lie in {low}..{high}, not {count}")
