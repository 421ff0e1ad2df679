"""Every operation of ours runs out of memory once: the host sees it, nothing stays patched, the next runs are right.

An operation is ours where the innermost code outside of torch and of the host's attention is the pack's. A round is one
graph, in which each of them fails in a run of its own, from the making of the patch to the report of the run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import comfy.ldm.modules.attention
import torch
from comfy.model_management import is_oom
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lab.campaign.ledger import Budget, Ledger
from lab.folders import ROOT
from lab.testing.families.family import Family
from lab.testing.families.rows import FAMILIES
from lab.testing.neighbours import louder, with_override
from lab.testing.run_nodes import patches_of, probe, skew

OURS = (str(ROOT / "sad_core"), str(ROOT / "nodes"))
HOSTS_ATTENTION = comfy.ldm.modules.attention.__file__
SITES = {"SD15": "input.1, middle", "Flux": "double.0, single.0", "SD3": "joint.0"}
MOST = 120  # the eigenvalues of the probe take thousands, in loops
CLOSE = 1e-4  # where the host's own fall-back finishes the run
Make = Callable[[ModelPatcher, str], ModelPatcher]

GRAPHS: dict[str, tuple[str, Make]] = {
    "γ and β": ("SD15", lambda model, blocks: skew(model, 1.5, 3.0, blocks=blocks)[0]),
    "adaptive, norm of the input": (
        "SD15",
        lambda model, blocks: skew(model, 1.5, 3.0, blocks=blocks, adaptive="gamma and beta", norm="input")[0],
    ),
    "one pass, projected norm": (
        "SD15",
        lambda model, blocks: skew(model, 1.5, 3.0, blocks=blocks, apply_to="cond", norm="projected")[0],
    ),
    "a probe of everything": (
        "SD15",
        lambda model, blocks: probe(model, blocks=blocks, depth_and_curvature=True, map_site="middle")[0],
    ),
    "γ and a probe": ("SD15", lambda model, blocks: probe(skew(model, 1.5, blocks=blocks)[0], blocks=blocks)[0]),
    "two nodes": (
        "SD15",
        lambda model, blocks: skew(skew(model, 0.5, apply_to="uncond", blocks=blocks)[0], 1.5, apply_to="cond")[0],
    ),
    "an override of another pack": (
        "SD15",
        lambda model, blocks: skew(with_override(model, louder), 1.5, 3.0, blocks=blocks)[0],
    ),
    "joint attention": ("Flux", lambda model, blocks: skew(model, 1.5, 3.0, blocks=blocks)[0]),
    "text and image": (
        "SD3",
        lambda model, blocks: skew(model, 1.5, 3.0, blocks=blocks, gamma_text=0.5, gamma_cross=1.2)[0],
    ),
}


class FailingAt(TorchDispatchMode):
    """Raises an out-of-memory error at the n-th operation of ours; counts them all.

    Attributes:
        number: from 0; None fails nowhere.
        count: operations of ours until now.
        place: where the error was raised, or None.
    """

    def __init__(self, number: int | None):
        super().__init__()  # type: ignore[no-untyped-call]
        self.number = number
        self.count = 0
        self.place: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        place = place_of_ours()
        if place is not None:
            self.count += 1
            if self.count - 1 == self.number:
                self.place = f"{func} at {place}"
                raise torch.OutOfMemoryError("injected")
        return func(*args, **(kwargs or {}))


def place_of_ours() -> str | None:
    """Return file and line of the pack's code that asked for the operation that is dispatched, None if another did."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(OURS):
            # The function at a site calls the block: what the block does there is the host's.
            return None if frame.f_code.co_name.endswith("_forward") else f"{file}:{frame.f_lineno}"
        if "/torch/" not in file and file != HOSTS_ATTENTION and not file.startswith(("<", sys.base_prefix)):
            return None
        frame = frame.f_back  # type: ignore[assignment]
    return None


def run(budget: Budget) -> Ledger:
    """Try a graph for every seed of the budget."""
    torch.set_num_threads(1)
    ledger = Ledger()
    names = list(GRAPHS)
    for seed in budget.seeds():
        name = names[seed % len(names)]
        ledger.counts["graphs"] += 1
        ledger.figures[name] = f"{try_graph(name, ledger, MOST)} operations"
        print(f"{name}: {ledger.figures[name]}", flush=True)
    return ledger


def try_graph(name: str, ledger: Ledger, most: int) -> int:
    """Fail at each operation of ours of a graph, at `most` of them, evenly spread; return how many there are."""
    family_name, make = GRAPHS[name]
    family = FAMILIES[family_name]
    plain, wanted = sample(family), sample(family, make(family.model, SITES[family_name]))
    with FailingAt(None) as counting:
        sample(family, make(family.model, SITES[family_name]))
    for number in range(0, counting.count, -(-counting.count // most)):
        problem = try_at(number, family, lambda: make(family.model, SITES[family_name]), plain, wanted, ledger)
        if problem:
            ledger.fault(f"{name}, operation {number}: {problem}")
    count: int = counting.count
    return count


def try_at(
    number: int, family: Family, make: Callable[[], ModelPatcher], plain: Tensor, wanted: Tensor, ledger: Ledger
) -> str:
    """Fail at one operation and look at what follows; return what is wrong, or nothing."""
    model = None
    with FailingAt(number) as failing:
        try:
            model = make()
            got = sample(family, model)
        except Exception as error:
            if not is_oom(error):
                return f"{error!r} instead ({failing.place})"
            ledger.counts["errors that reached the host"] += 1
        else:
            if failing.place is None:
                ledger.counts["operations that were not reached again"] += 1
            elif float((got - wanted).norm()) > CLOSE * float((wanted - plain).norm()) + 1e-5 * float(plain.norm()):
                return f"the run finished with another picture ({failing.place})"
            else:
                ledger.counts["errors that a fall-back handled"] += 1
    if model is not None and any(patch.run is not None or patch.state.active for patch in patches_of(model)):
        return f"a run goes on in the patch ({failing.place})"
    if not torch.equal(sample(family), plain):
        return f"the next plain picture is another one ({failing.place})"
    if not torch.equal(sample(family, make() if model is None else model), wanted):
        return f"the next patched picture is another one ({failing.place})"
    return ""


def sample(family: Family, model: ModelPatcher | None = None) -> Tensor:
    """The latent of one step."""
    return family.sample(model, steps=1)
