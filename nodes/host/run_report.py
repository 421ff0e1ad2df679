"""The record of every sampling run that went through a patched model."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from .model_calls import ModelCall, SiteTally, UnreadCall
from .noise_level import read_levels
from .prompts import UNKNOWN
from .run_origin import Origin, Upstream, current_origin, index_of_maker, not_made_by
from .settings import NEUTRAL, SIDE_OF
from .shared import Shared

KEPT_RUNS = 8
KEPT_CALLS = 4096
MOST_UNREAD = 256  # model calls whose numbers may wait on the device
SKEW_ATTENTION = "Skew Attention (SAD)"
CREATIVITY = "Creativity (SAD)"
NEVER_CALLED = "another node computes or skips this attention, or the model did not use it in this run"


@dataclass
class RunRecord(Shared):
    """One sampling run, filled while it goes on.

    Attributes:
        model: class of the model.
        chosen: addresses of the sites that were patched.
        apply_to: one of `settings.APPLY_TO`.
        status: "running", "finished", "stopped early", "interrupted" by the user, or "failed (OutOfMemoryError)" and
            the like.
        model_calls: how many calls the diffusion model got.
        site_calls: skewed attention calls by site address.
        untouched: attention calls at chosen sites that were skipped inside the window, by reason.
        why_untouched: the reason of the first of them at each site, by its address.
        prompts: the guider's names of the prompts that the model was called with, and whether γ acts on them; empty
            where it acts on all.
        unplaced: model calls with a prompt that could not be told, by reason; inside the window.
        backends: names of the attention functions that did the inner work.
        fallbacks: sentences, each once.
        origin: where in which prompt it began; None where ComfyUI ran no node.
        remarks: further sentences, each once.
    """

    model: str
    chosen: tuple[str, ...]
    apply_to: str = "both"
    status: str = "running"
    model_calls: int = 0
    site_calls: Counter[str] = field(default_factory=Counter)
    untouched: Counter[str] = field(default_factory=Counter)
    why_untouched: dict[str, str] = field(default_factory=dict)
    prompts: dict[str, bool] = field(default_factory=dict)
    unplaced: Counter[str] = field(default_factory=Counter)
    backends: set[str] = field(default_factory=set)
    fallbacks: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    origin: Origin | None = field(default=None, repr=False, compare=False)
    _calls: deque[ModelCall] = field(default_factory=lambda: deque(maxlen=KEPT_CALLS), repr=False)
    _unread: list[UnreadCall] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, call: UnreadCall, tallies: Iterable[SiteTally]) -> None:
        """Record a finished model call and what its sites did."""
        with self._lock:
            self._unread.append(call)
            self.model_calls += 1
            for prompt in call.prompts.chunks:
                self.prompts[prompt.name] = SIDE_OF[self.apply_to] in prompt.sides
            if call.prompts.reason and call.gammas != NEUTRAL:
                self.unplaced[call.prompts.reason] += 1
            for tally in tallies:
                if tally.calls:
                    self.site_calls[tally.address] += tally.calls
                if tally.backends:
                    self.backends |= tally.backends
            if len(self._unread) >= MOST_UNREAD:
                self._read()

    @property
    def calls(self) -> Sequence[ModelCall]:
        """The last `KEPT_CALLS` finished model calls.

        Safe to read while the run goes on; it then waits for the device if there are new ones.
        """
        with self._lock:
            self._read()
            return tuple(self._calls)

    @property
    def last_call(self) -> ModelCall | None:
        """The last finished model call; as `calls`."""
        with self._lock:
            self._read()
            return self._calls[-1] if self._calls else None

    def _read(self) -> None:
        """Bring the numbers of the calls that are still on a device, all together."""
        unread, self._unread = self._unread, []
        if not unread:
            return
        none = torch.empty(0)
        numbers = read_levels(
            [call.level for call in unread], [none if call.numbers is None else call.numbers for call in unread]
        )
        self._calls.extend(call.read(each) for call, each in zip(unread, numbers, strict=True))

    def fell_back(self, sentence: str) -> None:
        """Keep a sentence about a fallback, once."""
        if sentence not in self.fallbacks:
            self.fallbacks.append(sentence)

    @property
    def warning(self) -> str | None:
        """A sentence where the run did not do what was asked, else None."""
        if self.model_calls == 0 or any(self.site_calls.values()):
            return None
        calls = self.calls
        if all(call.gammas == NEUTRAL for call in calls):
            return "γ was 1 at every step of this run, so the image is that of the unpatched model."
        if self.apply_to != "both" and not any(self.prompts.values()):
            if self.unplaced:
                return (
                    f"{self._unplaced()} No other images belong to the {self.apply_to} pass, so the image is that "
                    "of the unpatched model."
                )
            why = " ComfyUI leaves uncond out where CFG is 1." if self.apply_to == "uncond" else ""
            return (
                f"This run had no {self.apply_to} pass, so the image is that of the unpatched model.{why} Set "
                '"apply_to" to "both".'
            )
        if self.untouched:
            return f"No attention call of {self.model} was changed. All were skipped: {_counted(self.untouched)}."
        return (
            f"No attention site of {self.model} was reached, so nothing changed. Another patch probably replaces the "
            "attention of these blocks, or the model computes it where this node cannot see it. Remove that "
            f"patch, or choose other blocks in {SKEW_ATTENTION}."
        )

    def _unplaced(self) -> str:
        """Say which model calls were skipped because γ is for one side and theirs is not known."""
        reasons = "; ".join(f"{why} ({_number(count, 'model call')})" for why, count in self.unplaced.items())
        return (
            f'"apply_to" is "{self.apply_to}", but some images in the model calls were skipped, because it is not '
            f'known which prompt they belong to. Reason: {reasons}. Set "apply_to" to "both" to change them too.'
        )

    def _not_reached(self) -> list[str]:
        """Say which chosen sites γ did not act at, and why, a line for each reason."""
        missing: dict[str, list[str]] = {}
        for address in self.chosen:
            if not self.site_calls[address]:
                missing.setdefault(self.why_untouched.get(address, NEVER_CALLED), []).append(address)
        return [f"Not reached: {', '.join(addresses)}. Reason: {why}." for why, addresses in missing.items()]

    def describe(self) -> str:
        """The run in a few lines for people."""
        if self.model_calls == 0:
            what = "no model call went through this node" if self.remarks else "the model was not called"
            return "\n".join([f"{self.model}: {what}.", *(f"{each}." for each in self.remarks)])
        hit = [address for address in self.chosen if self.site_calls[address]]
        calls = self.calls
        active = [call for call in calls if call.gammas != NEUTRAL and call.attention_calls]
        lines = [_in_short(calls, active, len(hit), len(self.chosen))] if active and not self.warning else []
        lines += [
            f"{self.model}, {self.status}: {len(hit)} of {len(self.chosen)} chosen sites reached, "
            f"{_number(sum(self.site_calls.values()), 'attention call')} changed in "
            f"{_number(self.model_calls, 'model call')}."
        ]
        if self.warning:
            lines.append(f"Warning: {self.warning}")
        if active:
            lines.append(
                f"{_gammas(active)} acted from progress {active[0].progress:.3f} (sigma {active[0].sigma:.4g}) "
                f"to progress {active[-1].progress:.3f} (sigma {active[-1].sigma:.4g}). Progress runs from 0 to 1."
            )
            _, text, cross = active[-1].gammas
            if (text, cross) != NEUTRAL[1:]:
                lines.append(f"In joint attention gamma_text was {text:.4g} and gamma_cross {cross:.4g}.")
        lines += describe_feedback(calls)
        if hit and len(hit) < len(self.chosen):
            lines += self._not_reached()
        if not {*self.prompts} <= {*SIDE_OF.values(), UNKNOWN}:
            others = [name for name, acts in self.prompts.items() if not acts]
            lines.append(f'With "apply_to" {self.apply_to} these prompts are skipped: {", ".join(others)}.')
        if self.unplaced and not self.warning:
            lines.append(self._unplaced())
        if self.backends:
            lines.append(f"Attention was computed by {', '.join(sorted(self.backends))}.")
        if self.untouched and not self.warning:
            lines.append(f"Skipped: {_counted(self.untouched)}.")
        lines += [f"Fallback: {sentence}." for sentence in self.fallbacks]
        lines += [f"{sentence}." for sentence in self.remarks]
        return "\n".join(lines)


class SkewReport(Shared):
    """The handle a Skew Attention node gives out; the sampling runs of its model fill it.

    Attributes:
        plan: what the node set out to do.
        neutral: whether nothing was patched, because the settings change nothing or the model is not known.
        node: the display name of the node.
    """

    def __init__(self, plan: str, neutral: bool = False, node: str = SKEW_ATTENTION):
        self.plan = plan
        self.neutral = neutral
        self.node = node
        self._runs: deque[RunRecord] = deque(maxlen=KEPT_RUNS)
        self._count = 0
        self._lock = threading.Lock()

    def begin(self, model: str, chosen: Sequence[str], apply_to: str = "both") -> RunRecord:
        """A record for a run that starts now."""
        run = RunRecord(model, tuple(chosen), apply_to, origin=current_origin())
        with self._lock:
            self._runs.append(run)
            self._count += 1
        return run

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        """The last runs, newest last; at most `KEPT_RUNS`."""
        with self._lock:
            return tuple(self._runs)

    @property
    def last_call(self) -> ModelCall | None:
        """The last finished model call of the newest run; safe to read while it goes on."""
        runs = self.runs
        return runs[-1].last_call if runs else None

    def describe(self, upstream: Upstream | None = None) -> str:
        """One run in a few lines, or why there is none.

        Args:
            upstream: of the input that the run must have made; None tells of the newest run.
        """
        if self.neutral:
            return "Nothing was patched, so there is nothing to report."
        with self._lock:
            runs, count = tuple(self._runs), self._count
        index = index_of_maker([run.origin for run in runs], upstream)
        if index is None and upstream is not None:
            return not_made_by(f"this {self.node}")
        if index is None:
            return (
                "No sampling run has gone through this model yet. If an image came out anyway, its sampler took it "
                "from ComfyUI's cache or used another model. Wire the patched MODEL into the sampler, and change the "
                "seed once."
            )
        text = runs[index].describe()
        number = count - len(runs) + index + 1
        if number < count:
            text = f'Run {number} of {count} through this node. It made what is wired to "after".\n{text}'
        elif count > 1:
            text = f"Run {count} of {count} through this node, the newest one.\n{text}"
        return text


def _in_short(calls: Sequence[ModelCall], active: Sequence[ModelCall], hit: int, chosen: int) -> str:
    """Say in one sentence where γ acted.

    Args:
        calls: all model calls of the run.
        active: those in which γ acted.
        hit, chosen: at how many sites, out of how many.
    """
    # One step may call the model for each side of CFG, and γ may be for one side only.
    first, last = active[0].progress, active[-1].progress
    skipped = {call.sigma for call in calls} - {call.sigma for call in active}
    when = f"from {100 * first:.0f} % to {100 * last:.0f} % of the run" if skipped else "in the whole run"
    return f"{_gammas(active)} acted {when}, at {hit} of {chosen} sites."


def _gammas(calls: Sequence[ModelCall]) -> str:
    low = min(min(call.gamma_range) for call in calls)
    high = max(max(call.gamma_range) for call in calls)
    return f"γ {low:.4g}" if low == high else f"γ {low:.4g} … {high:.4g}"


def describe_feedback(calls: Sequence[ModelCall]) -> list[str]:
    """Return a line for each sample whose γ followed its stability: γ where it changes, by progress."""
    samples = max([len(call.by_sample) for call in calls], default=0)
    lines = []
    for sample in range(samples):
        points: list[str] = []
        last = ""
        for call in calls:
            gamma = f"{call.by_sample[sample]:.4g}" if sample < len(call.by_sample) else last
            if gamma != last:
                points.append(f"{gamma} at {call.progress:.3f}")
            last = gamma
        lines.append(
            f"Feedback set γ of image {sample + 1} to these values, each with the progress of the run: "
            f"{', '.join(points)}."
        )
    return lines


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("s" if count != 1 else "")


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} × {reason}" for reason, count in reasons.items())
