"""A bundle's `manifest.json`: one struct a kind, read in this format and in the first."""

from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec

from glassrt.engine.bundles.kinds.classification import Classification
from glassrt.engine.bundles.kinds.dual import Dual
from glassrt.engine.bundles.kinds.encoder import Encoder
from glassrt.engine.bundles.kinds.mil import Mil
from glassrt.engine.bundles.kinds.segmentation import Segmentation
from glassrt.engine.bundles.parts import ClassInfo, Example, Graph, Resolution, Scale, Seen, Side, Step, Strict, Text
from glassrt.engine.errors import BundleError, first_line

Manifest: TypeAlias = Segmentation | Dual | Classification | Mil | Encoder
FORMAT = 2
KINDS = tuple(str(kind.__struct_config__.tag) for kind in get_args(Manifest))


class Head(msgspec.Struct):
    """What the manifest of any version says, whatever else stands in it."""

    format: int


class Kind(msgspec.Struct):
    """What tells how the rest of a manifest of today's format is to be read."""

    kind: str


class FirstManifest(Strict, frozen=True):
    """The manifest of format 1, which knew one kind and kept its checks within; these are not believed."""

    format: Literal[1]
    kind: Literal["segmentation"]
    name: str
    classes: Annotated[tuple[ClassInfo, ...], msgspec.Meta(min_length=2, max_length=255)]
    mpp: Resolution
    window: Side
    stride: Step
    output_stride: Step
    scales: Annotated[tuple[Scale, ...], msgspec.Meta(min_length=1, max_length=32)]
    flips: bool
    graphs: Annotated[tuple[Graph, ...], msgspec.Meta(min_length=1, max_length=16)]
    trained: Text
    licence: Text
    example: Example | None = None
    calibrated: Annotated[tuple[Seen, ...], msgspec.Meta(max_length=1000)] = ()
    verified: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        self.renew()  # which raises here, where a place can be told

    def renew(self) -> Segmentation:
        """The same in today's format."""
        said = {name: getattr(self, name) for name in self.__struct_fields__}
        for name in ("format", "kind", "example", "verified"):
            del said[name]
        return Segmentation(**said, examples=(self.example,) if self.example else ())


def decode_manifest(content: bytes) -> Manifest:
    """The manifest in a file's bytes. Raises BundleError, which says in a line what is wrong and where."""
    try:
        version = msgspec.json.decode(content, type=Head).format
        if version > FORMAT:
            raise BundleError(
                f"format {version} is of a later version of GlassRT, this one reads up to {FORMAT}: "
                "pip install --upgrade glassrt"
            )
        if version == 1:
            return check_roles(msgspec.json.decode(content, type=FirstManifest).renew())
        kind = msgspec.json.decode(content, type=Kind).kind
        if kind not in KINDS:
            raise BundleError(
                f"{kind[:64]!r} at `$.kind` is no kind of bundle that this version of GlassRT runs "
                f"({', '.join(KINDS)}): pip install --upgrade glassrt"
            )
        return check_roles(msgspec.json.decode(content, type=Manifest))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{first_line(error)}; the bundle is damaged or made by another version") from error


def check_roles(manifest: Manifest) -> Manifest:
    """The same, if each of its kind's networks has a float32 graph and nothing is of another. Raises BundleError."""
    roles = manifest.networks.keys()
    entries: list[Graph | Example] = [*manifest.graphs, *manifest.examples]
    for entry in entries:
        if entry.role not in roles:
            raise BundleError(
                f"{entry.file} is of the role {entry.role!r}, and a bundle of the kind {manifest.kind} has "
                f"{' and '.join(roles)}: export or download the bundle again"
            )
    for role in roles:
        if not any((graph.role, graph.precision) == (role, "fp32") for graph in manifest.graphs):
            raise BundleError(f"no fp32 graph of the role {role!r}: export or download the bundle again")
    return manifest
