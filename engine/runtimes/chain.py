"""Two networks as one: what the first gives of a window's surroundings goes into the second, with the window."""

from collections.abc import Mapping

from glassrt.engine.bundles.kinds.shared import Shared
from glassrt.engine.bundles.parts import RunPrecision
from glassrt.engine.bundles.tensors import TensorSpec
from glassrt.engine.runtimes.protocol import Array, Backend


class Chain:
    """A backend made of two of one runtime, precision and batch, which it closes; `kind` says what flows between.

    Called as a whole it computes the surroundings of every window anew. What runs a slide calls its parts instead.
    """

    def __init__(self, context: Backend, fine: Backend, kind: Shared) -> None:
        self.context, self.fine = context, fine
        self._features = kind.networks["context"]
        self.name, self.version, self.device, self.isa = fine.name, fine.version, fine.device, fine.isa
        self.precision: RunPrecision = fine.precision
        self.batch, self.streams = fine.batch, min(context.streams, fine.streams)
        specs = {spec.name: spec for spec in (*context.inputs, *fine.inputs)}
        self.inputs: tuple[TensorSpec, ...] = tuple(specs[meant.name] for meant in kind.whole.inputs)
        self.outputs = fine.outputs

    def infer(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        features = self.name_features(
            self.context.infer({spec.name: inputs[spec.name] for spec in self.context.inputs})
        )
        given = {**inputs, **features}
        return self.fine.infer({spec.name: given[spec.name] for spec in self.fine.inputs})

    def name_features(self, outputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """What the first network gave under the names that the second takes it by."""
        return self._features.name_outputs(outputs)

    def close(self) -> None:
        self.context.close()
        self.fine.close()
