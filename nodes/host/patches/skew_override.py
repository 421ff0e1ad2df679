"""The attention override of a Skew Attention node, for one call of one site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....sad_core import adapt, average, symmetricity
from ....sad_core.attention import check_norm, retrieve_skewed
from ....sad_core.inner_attention import Attend, PreparedCall
from ....sad_core.joint_attention import JOINT_NORMS, retrieve_modal
from ....sad_core.kernels.eligibility import is_wanted
from ....sad_core.parameters import is_untraced
from ..memory import is_out_of_memory
from ..model_calls import SiteTally
from ..models.site_call import SiteCall
from ..models.site_rules import NOT_SAME_TOKENS, OF_OTHERS, UNREADABLE
from ..models.sites import Site
from ..painted import CallMask
from ..shared import Shared
from .attention_backend import AttentionCall, Backend, may_be_last_queries, name_of
from .override_context import OverrideContext
from .site_patch import MOST_SAMPLES

GAMMA_IS_1 = "γ is 1 among the image tokens, and there are no other tokens"
NOT_BY_PASS = "the batch does not split into cond and uncond"
TAKEN = "a later Skew Attention node acts on this site"
NO_INPUT = 'the input of the attention cannot be seen in this call, so norm "value" is used'
TILES = "this pack's own attention for the CPU"  # what the report calls our own attention (sad_core/tiled_attention.py)
FUSED = "fused kernel"  # and our own kernel for cards (sad_core/kernels)


ALL_SAMPLES = slice(None)
SampleRange = tuple[int, int, "SkewOverride | None"]  # samples from and to, and the override that skews them


class SkewOverride(Shared):
    """The attention override for one call of one site.

    Attributes:
        context: of the node and the model call.
        site: the site whose attention this is.
        call: the arguments of the site.
        previous: the override of another pack that was in the slot.
        tally: where the site counts what it did.
        earlier: overrides of Skew Attention nodes before ours at the same site, nearest first.
    """

    def __init__(
        self,
        context: OverrideContext,
        site: Site,
        call: SiteCall,
        previous: Backend | None,
        tally: SiteTally | None = None,
    ):
        self.context = context
        self.site = site
        self.call = call
        self.previous = previous
        self.tally = SiteTally(site.address) if tally is None else tally
        self.earlier: list[SkewOverride] = []

    def __call__(
        self, function: Backend, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **keyword: Any
    ) -> Tensor:
        """The host's attention call (wrap_attn in comfy/ldm/modules/attention.py), skewed where it can be."""
        compiling = torch.compiler.is_compiling()
        try:
            call = AttentionCall.read(q, k, v, heads, mask, keyword)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.context.log.left_alone(f"{UNREADABLE} ({type(error).__name__})", self.site)
            return self._left_alone(function, q, k, v, heads, mask=mask, **keyword)
        reason, image_tokens, acting = self._acting(call, compiling)
        is_whole = not self.earlier and self.context.settings.apply_to == "both"
        ranges = [] if is_whole or not acting else self._by_pass(call.q.shape[0], acting)
        if image_tokens is None or not (ranges or (is_whole and acting)):
            if image_tokens is not None or reason != OF_OTHERS:
                self.context.log.left_alone(reason or NOT_BY_PASS, self.site)
            return self._left_alone(function, q, k, v, heads, mask=mask, **keyword)
        attention = self.context.attention
        choice = attention.choose(function, 2 * call.q.shape[-1], compiling)
        attend = attention.bind(choice, self.previous, call, self.tally.backends)
        is_free = self.previous is None and choice.is_exact
        if not is_free and self.context.has_kernel:
            self._without_kernel(function)
        if is_whole:
            self.tally.calls += 1
            batch = call.q.shape[0]
            return call.write(self._skewed(call, image_tokens, ALL_SAMPLES, batch, attend, is_free, compiling))
        for other in (self, *self.earlier):  # compared one by one, because PyTorch 2.8 compiles no dict of overrides
            if any(owner is other for _, _, owner in ranges):
                other.tally.calls += 1
            elif not any(each is other for each in acting):
                other.context.log.left_alone(other._why_idle(call, image_tokens), self.site)
            elif other is not self:
                other.context.log.left_alone(TAKEN, self.site)
        parts = []
        for start, stop, owner in ranges:
            part = call.rows(start, stop)
            if owner is not None:
                rows = slice(start, stop)
                batch = call.q.shape[0]
                parts.append(owner._skewed(part, image_tokens, rows, batch, attend, is_free, compiling))
            else:
                parts.append(attend(part.q, part.k, part.v, part.mask, part.scale))
        return call.write(parts[0] if len(parts) == 1 else torch.cat(parts))

    def _without_kernel(self, function: Backend) -> None:
        """Report that the kernel does not run although the user asks for it, because others compute the attention."""
        if is_wanted(""):
            name = name_of(function if self.previous is None else self.previous)
            self.context.attention.on_fallback(f"the fused kernel was not used ({name} computes the attention)")

    def _left_alone(self, function: Backend, *arguments: Any, **keyword: Any) -> Tensor:
        """Return what the call would give without us."""
        if self.previous is not None:
            return self.previous(function, *arguments, **keyword)
        return function(*arguments, **keyword)

    def unguarded(self) -> SkewOverride:
        """Return an override for the same retrieval with ρ = 1, of which nothing is recorded."""
        result = SkewOverride(self.context.unguarded(), self.site, self.call, self.previous)
        result.earlier = [each.unguarded() for each in self.earlier]
        return result

    @property
    def gamma(self) -> float | None:
        """γ of every sample and token before any adaptive rule; None where there is more than one number to it.

        There is more than one where several nodes share the site, where γ differs between image and text or between
        images, and where it acts in one pass or in a part of the picture only.
        """
        settings, followed = self.context.settings, self.context.followed
        if self.context.painted is not None or (followed is not None and len(set(followed.by_sample)) > 1):
            return None
        if self.earlier or settings.is_modal or settings.apply_to != "both":
            return None
        return self.context.gammas.image

    def _acting(self, call: AttentionCall, compiling: bool) -> tuple[str, slice | None, Sequence[SkewOverride]]:
        """Return which tokens γ acts among and the overrides with a γ for them, or a reason to skip the call.

        An override acts where a γ of its own other than 1 bears on the call, and always in a graph that is compiled,
        where γ is a tensor.
        """
        tokens, queries = call.k.shape[2], None
        if call.q.shape != call.k.shape:
            if not may_be_last_queries(call.q, call.k):
                return NOT_SAME_TOKENS, None, ()
            queries = call.q.shape[2]
        image_tokens, reason = self.site.rule.find_tokens(self.call, tokens, queries)
        if image_tokens is None:
            return reason, None, ()
        is_joined = image_tokens != slice(0 if queries is None else tokens - queries, tokens)
        acting, reason = [], GAMMA_IS_1
        for each in (self, *self.earlier):
            painted = each.context.painted
            if painted is not None and painted.share(image_tokens.stop - image_tokens.start, call.q.shape[0]) is None:
                reason = painted.reason
            elif compiling or each.context.gammas.image != 1.0 or (is_joined and each.context.settings.is_modal):
                acting.append(each)
        return ("", image_tokens, acting) if acting else (reason, None, ())

    def _why_idle(self, call: AttentionCall, image_tokens: slice) -> str:
        """Return why an override that does not act on a call does not."""
        painted = self.context.painted
        is_over = painted is None or painted.share(image_tokens.stop - image_tokens.start, call.q.shape[0]) is not None
        return GAMMA_IS_1 if painted is None or is_over else painted.reason

    def _by_pass(self, batch: int, acting: Sequence[SkewOverride]) -> list[SampleRange]:
        """Return runs of samples `(start, stop, who skews them)`; none where the batch does not split evenly."""
        if acting[0].context.settings.apply_to == "both":
            return [(0, batch, acting[0])]
        prompts = acting[0].context.prompts
        size, rest = divmod(batch, len(prompts))
        if rest:
            return []
        ranges: list[SampleRange] = []
        for index, prompt in enumerate(prompts):
            # Not `next(…, None)`: its default breaks a compiled graph on PyTorch 2.8.
            wanting = [each for each in acting if each.context.settings.wants(prompt)]
            ranges.append((index * size, (index + 1) * size, wanting[0] if wanting else None))
        return ranges

    def _skewed(
        self,
        call: AttentionCall,
        image_tokens: slice,
        rows: slice,
        batch: int,
        attend: Attend,
        is_free: bool,
        compiling: bool,
    ) -> Tensor:
        """Return the retrieval of the samples `rows` of the whole call, which are `call`, by our settings.

        The whole call has `batch` samples.

        With `is_free`, tiles of our own may do the work of `attend` on the CPU, and our fused kernel on a card. In an
        adaptive share a sample that turns out neutral may come from the kernel. In a compiled graph γ is a tensor and
        never 1, unless a γ of other tokens acts or each sample or row has its own.
        """
        context, settings, backends = self.context, self.context.settings, self.tally.backends
        beta: float | Tensor = settings.beta
        # Not the number first and then the tensor: PyTorch 2.8 makes a graph for every value of a number that it reads.
        gamma: float | Tensor = (
            context.gammas.image if not compiling or context.gamma_tensor is None else context.gamma_tensor
        )
        if context.followed is not None:
            gamma = context.followed.at(rows, batch, compiling)
        if settings.adaptive != "off":
            gamma, beta = self._adapted(call, image_tokens, gamma, compiling)
        elif isinstance(gamma, Tensor):
            gamma = gamma.reshape(-1, 1, 1, 1)
        if context.painted is not None:
            gamma = self._painted(context.painted, gamma, call, image_tokens, rows, batch)
        norm, x = settings.norm, None
        if norm not in JOINT_NORMS:
            norm, x = self._input_norm(call.v, rows)
        in_place = not compiling and is_untraced(call.q, call.k, call.v, call.mask, gamma, beta, x)
        prepared = PreparedCall(call.mask, call.scale, attend, in_place)
        kernel = is_free and context.has_kernel
        may_round = settings.adaptive != "off" or (
            compiling and not settings.is_modal and context.followed is None and context.painted is None
        )
        tokens = call.k.shape[2]
        if image_tokens == slice(tokens - call.q.shape[2], tokens):
            return retrieve_skewed(
                call.q,
                call.k,
                call.v,
                gamma,
                beta,
                prepared,
                norm=norm,
                x=x,
                tiles=is_free,
                on_tiles=lambda: backends.add(TILES),
                kernel=kernel,
                on_kernel=lambda: backends.add(FUSED),
                on_fallback=context.attention.on_fallback,
                neutral_bits=not may_round,
            )
        return retrieve_modal(
            call.q,
            call.k,
            call.v,
            (gamma, settings.gamma_text, settings.gamma_cross),
            beta,
            prepared,
            image_tokens,
            norm=norm,
            kernel=kernel,
            on_kernel=lambda: backends.add(FUSED),
            on_fallback=context.attention.on_fallback,
            neutral_bits=not may_round,
        )

    def _painted(
        self,
        painted: CallMask,
        gamma: float | Tensor,
        call: AttentionCall,
        image_tokens: slice,
        rows: slice,
        batch: int,
    ) -> Tensor:
        """Return γ of every query row of the samples `rows` of a call with `batch` samples, `(B, 1, M, 1)`."""
        tokens, queries = call.k.shape[2], call.q.shape[2]
        key: tuple[object, ...] | None = None
        if not isinstance(gamma, Tensor):  # then the sites of this model call share it
            key = (gamma, image_tokens.start, image_tokens.stop, tokens, queries, rows.start, rows.stop, batch)
            if key in self.context.painted_gammas:
                return self.context.painted_gammas[key]
        share = painted.share(image_tokens.stop - image_tokens.start, batch)
        assert share is not None  # such overrides do not act
        before, after = image_tokens.start - (tokens - queries), tokens - image_tokens.stop
        gammas = painted.gammas(gamma, share[rows], before, after)
        if key is not None:
            self.context.painted_gammas[key] = gammas
        return gammas

    def _input_norm(self, v: Tensor, rows: slice) -> tuple[str, Tensor | None]:
        """Return a norm that needs the input, and the input of the samples `rows`; "value" where it cannot be seen."""
        if not self.site.shows_input:
            return "value", None
        norm, x = self.context.settings.norm, self.site.rule.find_input(self.call, rows, v)
        if x is None:
            if not torch.compiler.is_compiling():
                self.context.attention.on_fallback(f"{self.site.address}: {NO_INPUT}")
            return "value", None
        check_norm(norm, x, v)
        return norm, x

    def _adapted(
        self, call: AttentionCall, image_tokens: slice, gamma: float | Tensor, compiling: bool
    ) -> tuple[Tensor, Tensor]:
        """Return γ and β of every sample of this call, weighed by how symmetric its logits are; both `(B, 1, 1, 1)`."""
        context, settings = self.context, self.context.settings
        before = call.k.shape[2] - call.q.shape[2]  # tokens without a query
        queries = call.q[:, :, image_tokens.start - before : image_tokens.stop - before]
        eta = average(symmetricity(queries, call.k[:, :, image_tokens]), over="sample")
        gamma, beta = adapt(gamma, settings.beta, eta, adapt_beta=settings.adaptive == "gamma and beta")
        if not compiling:
            told = eta, gamma
            if eta.shape[0] > MOST_SAMPLES:
                told = eta.mean()[None], torch.stack(gamma.aminmax())
            context.log.adaptive.append((self.site.address, *told))
        return gamma[:, None, None, None], beta[:, None, None, None]
