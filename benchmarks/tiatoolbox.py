"""TIAToolbox's segmentation engine as a contender of `glassrt bench peers`.

TIAToolbox requires some fifty packages, torchvision among them, and its segmentation uses a dozen, which the extra
`peers` brings. So it is installed alone, `pip install --no-deps tiatoolbox`, and what it imports and does not use on
this path is hollow in the contender's own process.
"""

import logging
import sys
import tempfile
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from glassrt.benchmarks.contender import Contender, Probabilities
from glassrt.benchmarks.torch_peers import join_contour, prepare_torch
from glassrt.engine.bundles.bundle import Bundle

UNUSED = (
    *("timm", "torchvision", "transformers", "huggingface_hub"),  # other networks
    *("sklearn", "umap", "SimpleITK"),  # stains, graphs, registration
    "requests",  # files of other machines
)


def build_tiatoolbox(bundle: Bundle, pixels: NDArray[np.uint8]) -> Contender | None:
    """TIAToolbox's `SemanticSegmentor`, where it is installed and the test has one scale, which is all that it does.

    Its `infer_wsi` runs the windows of an image in memory and merges their logits; no tissue mask, nothing written. It
    would also run those that begin in the image and end outside, which nobody else does: they are left out.
    """
    if bundle.manifest.views[0] != (1.0,) or bundle.manifest.views[1] or find_spec("tiatoolbox") is None:
        return None
    sys.meta_path.append(HollowModules())
    import tiatoolbox
    from tiatoolbox.models.engine.io_config import IOSegmentorConfig
    from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
    from tiatoolbox.models.models_abc import ModelABC
    from tiatoolbox.wsicore.wsireader import VirtualWSIReader

    class Model(ModelABC):  # type: ignore[misc]
        """The network, as TIAToolbox runs one."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return cast(Tensor, self.network(x))

        @staticmethod
        def infer_batch(model: nn.Module, batch_data: Tensor, *, device: str) -> NDArray[np.float32]:
            """Logits `[N, H, W, C]` of windows `[N, H, W, 3]`."""
            with torch.inference_mode():
                logits = cast(Tensor, model(batch_data.permute(0, 3, 1, 2).float()))
                return logits.permute(0, 2, 3, 1).numpy()

    logging.getLogger().setLevel(logging.ERROR)  # it warns of a missing GPU
    network, _ = prepare_torch(bundle, pixels)
    # The fastest of 1, 4 and 8 on two cores: 2.7, 4.1 and 3.7 s on the slide of the tests.
    engine = SemanticSegmentor(Model(network).eval(), batch_size=1, verbose=False)
    whole, window, stride = {"units": "baseline", "resolution": 1.0}, bundle.manifest.window, bundle.manifest.stride
    config = IOSegmentorConfig(
        input_resolutions=[whole],
        output_resolutions=[whole],
        save_resolution=whole,
        patch_input_shape=(window, window),
        patch_output_shape=(window, window),
        stride_shape=(stride, stride),
    )
    reader = VirtualWSIReader(pixels, mode="rgb")
    reader.input_path = Path("in memory")

    def run() -> Probabilities:
        loader = engine.get_dataloader(reader, ioconfig=config, patch_mode=False, auto_get_mask=False)
        dataset = loader.dataset
        dataset.reader = reader  # it would open the path again
        inside = (dataset.inputs[:, 2:] <= pixels.shape[1::-1]).all(axis=1)
        dataset.inputs, dataset.outputs = dataset.inputs[inside], dataset.outputs[inside]
        dataset.full_outputs = dataset.outputs
        engine.mask_bounds = None
        with tempfile.TemporaryDirectory() as folder:
            logits = engine.infer_wsi(loader, Path(folder, "merged.zarr"))["probabilities"].compute()
        return join_contour(torch.from_numpy(logits).permute(2, 0, 1).softmax(0), bundle).numpy()

    return Contender(f"TIAToolbox {tiatoolbox.__version__} SemanticSegmentor", "fp32", run)


class Hollow(type):
    """The class of what is there in name only: its attributes are such things too."""

    def __getattr__(cls, name: str) -> "Hollow":
        if name.startswith("__"):
            raise AttributeError(name)
        return Hollow(name, (Nothing,), {})


class Nothing(metaclass=Hollow):
    """What hollow modules hold: may be named, inherited from, and made with any arguments."""

    def __init__(self, *arguments: object, **named: object) -> None:
        pass


class HollowModules(MetaPathFinder, Loader):
    """Makes those of `UNUSED` that no finder before it has found."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in UNUSED:
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = lambda name: getattr(Nothing, name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass
