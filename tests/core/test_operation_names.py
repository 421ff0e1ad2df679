"""Names of custom operations, for packs that lie anywhere."""

from __future__ import annotations

import pytest
import torch

from sad_core.operation_names import operation_namespace


@pytest.mark.parametrize(
    "module", ["sad_core.kernels", "C:\\Users\\用户\\custom_nodes\\sad", "/home/José/sad", "a\udcff"]
)
def test_a_path_of_any_letters_gives_a_name_that_pytorch_takes(module):
    @torch.library.custom_op(f"{operation_namespace(module)}::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    assert twice(torch.ones(1)).item() == 2


def test_two_copies_of_the_pack_have_names_of_their_own():
    modules = ["/home/José/sad", "/home/Jorè/sad", "/home/sad", "sad"]
    assert len({operation_namespace(module) for module in modules}) == len(modules)
