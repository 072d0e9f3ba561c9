"""What stands in for a device finds what a device would not forgive."""

from typing import Any

import numpy as np
import pytest

from glassrt.cuda_kernels.compile import read_source

WRONG = {
    "before": ("values[-1] = 0;", "wrote before an array"),
    "behind": ("values[gridDim.x * blockDim.x] = 0;", "wrote behind an array"),
    "misaligned": ("*reinterpret_cast<float4 *>(values + 1) = float4{};", "not aligned"),
    "left": ("if (threadIdx.x < 63) __syncthreads();", "a thread left while others wait"),
    "waiting": ("if (threadIdx.x < 33) __syncthreads(); else __shfl_down_sync(~0u, 1, 1);", "never reach"),
}
KERNEL = """
struct alignas(16) float4 { float at[4]; };
extern "C" __global__ void __launch_bounds__(64) wrong(float *values) { %s }
"""


@pytest.mark.parametrize(("body", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_kernel_is_caught(host: Any, body: str, says: str) -> None:
    module = host.RawModule(
        code=read_source("oeem").split('#line 1 "oeem.cu"')[0] + KERNEL % body, options=(), backend="nvrtc"
    )
    module.compile()
    values = host.empty(64, np.float32)
    with pytest.raises(AssertionError, match=says):
        module.get_function("wrong")((1,), (64,), (values,))


@pytest.mark.parametrize("wrong", [(np.int64(1),), (np.float32(1),), ()], ids=["size", "kind", "number"])
def test_arguments_of_another_kind_are_caught(host: Any, wrong: tuple[Any, ...]) -> None:
    code = 'extern "C" __global__ void one(int count) {}'
    module = host.RawModule(code=code, options=(), backend="nvrtc")
    module.compile()
    module.get_function("one")((1,), (32,), (np.int32(1),))
    with pytest.raises(AssertionError, match="one takes"):
        module.get_function("one")((1,), (32,), wrong)
