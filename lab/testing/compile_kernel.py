"""Compile the fused kernel for a card that is not there, which the interpreter of Triton does not do.

    python -m lab.testing.compile_kernel cuda 80
    python -m lab.testing.compile_kernel hip gfx1100

It prints the bytes of shared memory that the kernel takes and those there are on every card. What is compiled has all
that the kernel can do: β, a mask, groups, fewer queries than keys, and numbers as tensors. Its blocks are small, since
large ones take a minute.
"""

from __future__ import annotations

import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sad_core.kernels.choice import SMALLEST_SHARED_MEMORY, Blocks, padded
from sad_core.kernels.skew_kernel import skew_attention_kernel

HEAD_DIM = 24


def compile_kernel(backend: str, architecture: str) -> tuple[int, int]:
    """Return the bytes of shared memory that the compiled kernel takes and those there are."""
    width, blocks = padded(HEAD_DIM), Blocks(16, 16, 1, 1)
    flags = ("GUARDS", "BLENDS", "HAS_PREFIX", "HAS_GROUPS", "GAMMA_IS_TENSOR", "TEXT_IS_TENSOR", "BETA_IS_TENSOR")
    constants: dict[str, object] = {
        **dict.fromkeys(flags, True),
        "TEXT_IS_PLAIN": False,
        "CROSS_IS_TENSOR": False,
        "WIDEN": False,
    }
    constants |= {"HEAD_DIM": HEAD_DIM, "WIDTH": width, "ROWS": blocks.rows, "COLUMNS": blocks.columns}
    constants |= {"MASK": "additive"}
    types = {**dict.fromkeys(("Q", "K", "V", "Out", "Mask"), "*bf16"), "gamma_cross": "fp32", "scale": "fp32"}
    types |= dict.fromkeys(("gamma", "gamma_text", "beta"), "*fp32")
    names = skew_attention_kernel.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in ("Q", "K", "V", "Out", "q_token", "k_token")}
    places = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=skew_attention_kernel, signature=signature, constexprs=places, attrs=aligned)
    target = GPUTarget(backend, int(architecture) if architecture.isdigit() else architecture, 32)
    options = {"num_warps": blocks.warps, "num_stages": blocks.stages}
    return triton.compile(source, target=target, options=options).metadata.shared, SMALLEST_SHARED_MEMORY


if __name__ == "__main__":
    print(*compile_kernel(*sys.argv[1:]))
