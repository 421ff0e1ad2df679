"""The errors of the probe's depth and curvature at the sites of the demo model.

python -m lab.demo.landscape_errors     # prints them for every fourth model call of a sampling run, in a minute
"""

from __future__ import annotations

from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.demo.model import load_model
from lab.demo.sampling import sample_latents
from lab.testing.landscape_errors import Retrieval, landscape_errors


def demo_retrievals(steps: int = 25, every: int = 1) -> list[Retrieval]:
    """Collect the retrievals of all self-attention of the demo model at every n-th model call of one sampling run."""
    found: list[Retrieval] = []
    original = F.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, *args: object, **keyword: object) -> Tensor:
        out: Tensor = original(q, k, v, *args, **keyword)  # type: ignore[arg-type]
        if q.shape == k.shape:
            found.append((q.clone(), k.clone(), out.clone()))
        return out

    model = load_model()
    with patch.object(F, "scaled_dot_product_attention", watched):
        sample_latents(model, torch.tensor([0]), [0], steps=steps)
    sites = len(found) // steps
    return [each for index, each in enumerate(found) if index // sites % every == 0]


if __name__ == "__main__":
    print(landscape_errors(demo_retrievals(every=4)).describe())
