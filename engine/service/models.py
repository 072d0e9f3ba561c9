"""The bundles that are served, and the backends that run them, which all requests and sessions share."""

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassrt.engine.bundles.bundle import Bundle, open_bundle
from glassrt.engine.runtimes.open import open_backend
from glassrt.engine.runtimes.protocol import Array, Backend
from glassrt.engine.service.refusals import Refused
from glassrt.engine.service.settings import Settings

SIZES = (16, 4, 1)  # windows of a call: what a request brings is taken apart into as few as can be
CPU = "CPU"


class Shared:
    """A `Backend` that any number of threads may call; whoever holds it may close it, which does nothing."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._turns = threading.BoundedSemaphore(backend.streams)
        self.name, self.device, self.isa, self.version = backend.name, backend.device, backend.isa, backend.version
        self.precision, self.batch, self.streams = backend.precision, backend.batch, backend.streams
        self.inputs, self.outputs = backend.inputs, backend.outputs

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """As `Backend.infer`."""
        with self._turns:
            return self._backend.infer(inputs)

    def close(self) -> None:
        """It is others' too."""

    def end(self) -> None:
        """Close it for all."""
        self._backend.close()


class Model:
    """A bundle that is served. Thread-safe."""

    def __init__(self, name: str, bundle: Bundle, settings: Settings) -> None:
        """Opens it for one window, which tests it. Raises as `open_backend`."""
        self.name, self.bundle = name, bundle
        self._settings = settings
        self._lock = threading.Lock()
        self._backends: dict[tuple[Any, ...], Shared] = {}
        first = self.open(1)
        self.device = first.device
        self.backend, self.precision = first.name, first.precision
        self.inputs, self.outputs = first.inputs, first.outputs
        self.signature = bundle.manifest.networks[bundle.manifest.first_role]

    def open(self, batch: int) -> Shared:
        """What runs so many windows a call with all cores on one."""
        return self._once((batch,), self._settings.backend, self._settings.precision, batch, False)

    def share(self, backend: str | None, precision: str | None) -> Shared:
        """What finishes most windows, for slides. Raises as `open_backend`."""
        named = backend or self._settings.backend, precision or self._settings.precision
        return self._once(named, *named, None, True)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
        """The outputs `[N, ...]` for N windows, however many. Raises BackendUnavailable."""
        count = next(iter(inputs.values())).shape[0]
        found: dict[str, list[Array]] = {spec.name: [] for spec in self.outputs}
        for first, size, batch in self._parts(count):
            part = {name: array[first : first + size] for name, array in inputs.items()}
            if size < batch:
                part = {name: fill(array, batch) for name, array in part.items()}
            told = self.open(batch).infer(part)
            for name, kept in found.items():
                kept.append(told[name][:size])
        return {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in found.items()}

    def close(self) -> None:
        """Close all backends; nobody may be at one."""
        with self._lock:
            for each in self._backends.values():
                each.end()
            self._backends.clear()

    def _parts(self, count: int) -> Iterator[tuple[int, int, int]]:
        """First window, windows and batch of each call. On a GPU, where a size is costly to open, there is one more."""
        sizes = SIZES if self.device == CPU else (SIZES[0], 1)
        first = 0
        while first < count:
            left = count - first
            batch = next(size for size in sizes if size <= left)
            if self.device != CPU and left > 1:
                batch = sizes[0]
            yield first, min(batch, left), batch
            first += min(batch, left)

    def _once(self, key: tuple[Any, ...], name: str, precision: str, batch: int | None, throughput: bool) -> Shared:
        with self._lock:
            if key not in self._backends:
                backend = open_backend(self.bundle, name, batch, precision=precision, throughput=throughput)
                self._backends[key] = Shared(backend)
            return self._backends[key]


class Models:
    """The bundles that are served, by name."""

    def __init__(self, settings: Settings) -> None:
        """Raises BundleError and BackendUnavailable for what cannot be served."""
        self._models: dict[str, Model] = {}
        try:
            for name, path in settings.bundles.items():
                self._models[name] = Model(name, open_bundle(path), settings)
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> list[str]:
        """What they are called."""
        return [*self._models]

    def find(self, name: str) -> Model:
        """A bundle by its name. Raises Refused."""
        if name not in self._models:
            raise Refused(404, f"unknown bundle {name[:60]!r}: served are {', '.join(self._models)}")
        return self._models[name]

    def close(self) -> None:
        """Close all backends."""
        for each in self._models.values():
            each.close()


def fill(array: Array, batch: int) -> Array:
    """An array with as many windows as a batch has; those that are added are empty."""
    filled = np.zeros((batch, *array.shape[1:]), array.dtype)
    filled[: array.shape[0]] = array
    return filled
