"""The instructions that this processor has for networks: arithmetic, and so results, differ by them."""

from functools import cache


@cache
def cpu_isa() -> str:
    """What runtimes compute with here, as `avx2`, `avx512`, `avx512-vnni` or `avx512-vnni-bf16`."""
    from numpy._core._multiarray_umath import __cpu_features__ as features  # type: ignore[import-not-found]

    if not features.get("AVX512F"):
        return "avx2" if features.get("AVX2") else "baseline"
    names = [name for name in ("VNNI", "BF16") if features.get(f"AVX512{name}")]
    return "-".join(["avx512", *map(str.lower, names)])
