"""Set measures on all resamples of the seeds at once: the numbers of lab/evidence/measures, many times as fast.

Each function takes what its namesake there takes, and `rows` (R, n): the places of the samples on each of R resamples,
as `bootstrap.halves` gives them, the classes one after the other. It returns the measure on each, (R,) float64. What is
within reach of what does not change with the resample. So it is kept as bits, and that of a block is their union.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from lab.evidence.measures.kernel_distance import polynomial_kernel
from lab.evidence.measures.manifold import NEIGHBOUR, RIM
from lab.evidence.measures.sets import BLOCK
from lab.testbed.frechet import square_root
from sad_core.evaluation.diversity import effective_number, off_diagonal_mean

AT_ONCE = 10  # resamples: as much as stays in a core's cache


def frechet_distances(samples: Tensor, real: Tensor, rows: Tensor) -> Tensor:
    """The Fréchet distance of samples (N, d) from all real pictures (M, d), both float64."""
    count = rows.shape[1]
    real_mean, real_covariance = real.mean(dim=0), real.mT.cov()
    turned = samples @ square_root(real_covariance)
    lengths = samples.square().sum(dim=1)
    some, covariance = torch.empty(count, samples.shape[1], dtype=samples.dtype), torch.empty_like(real_covariance)
    found = torch.empty(len(rows), dtype=samples.dtype)
    for place, row in enumerate(rows):  # into the same memory each time: fresh memory costs more than the sums
        torch.index_select(turned, 0, row, out=some)
        some -= some.mean(dim=0)
        cross = torch.linalg.eigvalsh(torch.mm(some.mT, some, out=covariance) / (count - 1)).clamp(min=0).sqrt().sum()
        torch.index_select(samples, 0, row, out=some)
        mean = some.mean(dim=0)
        trace = (lengths[row].sum() - count * mean.square().sum()) / (count - 1)
        found[place] = (mean - real_mean).square().sum() + trace + real_covariance.trace() - 2 * cross
    return found


def kernel_distances(samples: Tensor, real: Tensor, rows: Tensor) -> Tensor:
    """The kernel distance of samples (N, d) from real pictures (M, d)."""
    count = rows.shape[1]
    to_real = polynomial_kernel(samples, real).mean(dim=1)
    among = pair_sums(polynomial_kernel(samples, samples), rows) / (count * (count - 1))
    return among + off_diagonal_mean(polynomial_kernel(real, real)) - 2 * to_real[rows].mean(dim=1)


def pair_sums(matrix: Tensor, rows: Tensor) -> Tensor:
    """The sum of the entries (i, j), i ≠ j, of a matrix (N, N) over the places (R, n), none of which comes twice."""
    chosen = torch.zeros(len(rows), len(matrix), dtype=matrix.dtype).scatter_(1, rows, 1.0)
    return (chosen @ matrix * chosen).sum(dim=1) - chosen @ matrix.diagonal()


def apart(distances: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """Mean distance (N, N) between two samples of the same class (N,), averaged over the classes."""
    means = []
    for own in by_class(labels, rows):
        places, own = local(own)
        count = own.shape[1]
        means.append(pair_sums(distances[places[:, None], places], own) / (count * (count - 1)))
    return torch.stack(means).mean(dim=0)


def local(own: Tensor) -> tuple[Tensor, Tensor]:
    """Places (R, n) of samples -> the ones that occur (k,), and the same places among these: (R, n)."""
    places: Tensor = own.unique()
    return places, torch.searchsorted(places, own.contiguous())


def by_class(labels: Tensor, rows: Tensor) -> Iterator[Tensor]:
    """The places (R, n) of each class that occurs."""
    first = labels[rows[0]]
    for label in first.unique():
        yield rows[:, first == label]


def blocks(labels: Tensor, rows: Tensor, size: int = BLOCK) -> Tensor:
    """The places dealt into blocks as `sets.blocks` deals them: (R, blocks, classes, size)."""
    own = list(by_class(labels, rows))
    fewest, most = (extreme(each.shape[1] for each in own) for extreme in (min, max))
    if fewest < size:
        raise ValueError(
            f"block: {size} samples of each class wanted, but half of the fewest are {fewest}. "
            f"Draw at least {2 * size} samples of each class."
        )
    dealt = torch.arange(-(-most // size) * size)
    return torch.stack([each[:, dealt % each.shape[1]].unflatten(1, (-1, size)) for each in own], dim=2)


def vendi(samples: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """The mean Vendi score of blocks of one class: features (N, d), classes (N,)."""
    unit = F.normalize(samples, dim=-1)
    of_class = []
    for own in blocks(labels, rows).unbind(dim=2):
        places, own = local(own)
        kernel = (unit[places] @ unit[places].mT).flatten()
        pairs = (own[..., :, None] * len(places) + own[..., None, :] for own in own.split(AT_ONCE))
        of_class.append(torch.cat([effective_number(kernel.take(each)).mean(dim=1) for each in pairs]))
    return torch.stack(of_class).mean(dim=0)


def coverage(inside: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """The share of real pictures that have any sample of a block in their ball, from `manifold.inside` (N, M)."""
    return shares_of_unions(as_bits(inside), blocks(labels, rows).flatten(2), inside.shape[1])


def recall(among: Tensor, to_real: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    """The share of real pictures inside the ball of any sample of a block, from distances (N, N) and (N, M).

    The ball of a sample reaches to its fifth neighbour in the block, which has some rank among all samples.
    """
    dealt = blocks(labels, rows)
    distances, order = among.sort(dim=1)
    whole = min(own.shape[1] for own in by_class(labels, rows)) // BLOCK  # so many blocks share no place
    first, *rest = dealt.split([whole] + [1] * (dealt.shape[1] - whole), dim=1)
    ranks = torch.cat([ranks_in_blocks(order, some.flatten(2)) for some in (first, *rest)], dim=1)
    lowest, highest = int(ranks.min()), int(ranks.max()) + 1
    widths = distances[:, lowest:highest].contiguous() * RIM
    needed = torch.searchsorted(widths, to_real).short()  # the lowest rank whose ball reaches the real picture
    numbers = torch.arange(highest - lowest, dtype=torch.int16)[:, None]
    reached = numpy.stack([as_bits(each <= numbers) for each in needed])
    places = dealt.flatten(2) * (highest - lowest) + ranks - lowest
    return shares_of_unions(reached.reshape(-1, reached.shape[-1]), places, to_real.shape[1])


def ranks_in_blocks(order: Tensor, dealt: Tensor, neighbour: int = NEIGHBOUR) -> Tensor:
    """The rank among all samples of each sample's neighbour in its block: order (N, N), places (R, blocks, n) -> same.

    The blocks of a resample share no place. Rank 0 is the sample itself, as it is in its block.
    """
    count, kinds, size = dealt.shape
    block = torch.full((count, len(order)), -1, dtype=torch.int16)
    numbers = torch.arange(kinds, dtype=torch.int16).repeat_interleave(size).expand(count, -1)
    of_sample = block.scatter_(1, dealt.flatten(1), numbers).mT.contiguous().numpy()  # (N, R)
    ranks = numpy.empty_like(of_sample)
    for sample, near in enumerate(order.numpy()):
        reach = 4 * (neighbour + 1) * len(order) // size  # nearly all find it there
        while True:
            found = numpy.add.accumulate(of_sample[near[:reach]] == of_sample[sample], axis=0, dtype=numpy.int16)
            if reach >= len(order) or found[-1].min() > neighbour:
                break
            reach *= 2
        ranks[sample] = (found <= neighbour).sum(axis=0)
    return torch.from_numpy(ranks).mT.long().gather(1, dealt.flatten(1)).view_as(dealt)


def as_bits(flags: Tensor) -> numpy.ndarray:
    """Booleans (..., M) as words of 64 bits (..., ⌈M / 64⌉), padded with 0."""
    packed = numpy.packbits(F.pad(flags, (0, -flags.shape[-1] % 64)).numpy(), axis=-1)
    return packed.view(numpy.uint64)


def shares_of_unions(bits: numpy.ndarray, dealt: Tensor, count: int) -> Tensor:
    """The mean share of `count` things in the union of the rows (·, words) of a block: (R, blocks, n) -> (R,)."""
    found = []
    for some in dealt.split(AT_ONCE):
        unions = numpy.bitwise_or.reduce(bits[some.numpy()], axis=2)
        held = torch.from_numpy(numpy.unpackbits(unions.view(numpy.uint8), axis=-1).sum(axis=-1))
        found.append(held.double().mean(dim=1) / count)
    return torch.cat(found)
