"""Faults that would hurt a user, as texts to find and to put in their place."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One fault.

    Attributes:
        path: the file, from the root.
        find: a text that is in it once.
        replace: the text to put there.
        fault: what is then wrong.
        tests: files below `tests` that should notice.
    """

    path: str
    find: str
    replace: str
    fault: str
    tests: tuple[str, ...]


CORE = "sad_core/"
HOST = "nodes/host/"
PATCHES = "nodes/host/patches/"
MODELS = "nodes/host/models/"

METHOD = (
    Mutant(
        CORE + "decomposition.py",
        "return half + half.mT, half - half.mT",
        "return half + half.mT, half.mT - half",
        "the skew part has the wrong sign",
        ("core/test_decomposition.py",),
    ),
    Mutant(
        CORE + "decomposition.py",
        "return number, math.copysign(number, c_minus)",
        "return number, number",
        "γ above 1 acts like one below it",
        ("core/test_attention.py",),
    ),
    Mutant(
        CORE + "decomposition.py",
        "    root, signed_root = share_out(c_minus)\n",
        "    root, signed_root = share_out(c_minus)\n    c_plus = torch.as_tensor(c_plus).to(k.dtype)\n",
        "c₊ is rounded in half precision",
        (
            "core/test_decomposition.py",
            "core/test_attention.py",
        ),
    ),
    Mutant(
        CORE + "attention.py",
        "if is_exactly(gamma, 1.0) or is_exactly(beta, 0.0):",
        "if is_exactly(gamma, 1.0):",
        "β = 0 is not neutral",
        ("core/test_attention.py",),
    ),
    Mutant(
        CORE + "blending.py",
        "return torch.lerp(plain, skewed, beta)",
        "return torch.lerp(plain, skewed, beta * 0.9)",
        "β reaches nine tenths as far",
        ("core/test_attention.py",),
    ),
    Mutant(
        CORE + "blending.py",
        "first = value_dim if plain.shape[-1] > value_dim else 0",
        "first = 0",
        "ρ is taken of values and patterns together",
        ("core/test_norm_guard.py",),
    ),
    Mutant(
        CORE + "norm_guard.py",
        "LARGEST_RATIO = 4.0",
        "LARGEST_RATIO = 8.0",
        "ρ may be eight",
        ("core/test_norm_guard.py",),
    ),
    Mutant(
        CORE + "norm_guard.py",
        "    for _ in range(2):\n        basis",
        "    for _ in range(0):\n        basis",
        "the projected norm keeps directions at random",
        ("core/test_norm_guard.py",),
    ),
    Mutant(
        CORE + "symmetricity.py",
        ".sum(dim=(-3, -1)).unbind(-1)",
        ".sum(dim=(-3, -1)).abs().unbind(-1)",
        "η is the share of all, never negative",
        ("core/test_symmetricity.py",),
    ),
    Mutant(
        CORE + "symmetricity.py",
        "torch.rsub(eta, 1.0, alpha=1 - gamma)",
        "torch.rsub(1 - eta, 1.0, alpha=1 - gamma)",
        "the adaptive rule turns the wrong way",
        (
            "core/test_symmetricity.py",
            "core/test_reference.py",
        ),
    ),
    Mutant(
        CORE + "joint_attention.py",
        "skewed = call.retrieve(queries, keys, v, image_tokens)",
        "skewed = call.retrieve(queries, keys, v)",
        "image rows get the mask of the first rows",
        ("core/test_joint_attention.py",),
    ),
    Mutant(
        CORE + "joint_attention.py",
        "gamma_text, (gamma_text, gamma_cross, gamma_text))",
        "gamma_text, (gamma_text, gamma_text, gamma_text))",
        "text looks at images with gamma_text",
        ("core/test_modal_attention.py",),
    ),
    Mutant(
        CORE + "parameters.py",
        "    if shape == (batch,):\n",
        "    if shape == (batch,) and batch != heads:\n",
        "one γ a sample is refused where there are as many heads",
        ("core/test_attention.py",),
    ),
    Mutant(
        CORE + "tiled_attention.py",
        "LARGEST_LOGIT = 30.0",
        "LARGEST_LOGIT = 3000.0",
        "exp overflows in tiles",
        ("core/test_tiled_attention.py",),
    ),
    Mutant(
        CORE + "kernels/skew_kernel.py",
        "c_minus = (1.0 - gamma) * 0.5",
        "c_minus = (1.0 - gamma) * 0.45",
        "the fused kernel adds too little of the transposed logits",
        ("kernels/test_skew_kernel.py",),
    ),
    Mutant(
        CORE + "kernels/skew_kernel.py",
        "to_text = tl.where(is_image, cross, text)",
        "to_text = tl.where(is_image, text, cross)",
        "the fused kernel swaps gamma_text and gamma_cross",
        ("kernels/test_skew_kernel.py",),
    ),
    Mutant(
        CORE + "kernels/skew_kernel.py",
        "            ratio = tl.where(strength == 0.0, 1.0, ratio)  # β = 0 is neutral\n",
        "",
        "a sample with a β of 0 is rescaled by the fused kernel",
        ("kernels/test_skew_kernel.py",),
    ),
    Mutant(
        CORE + "kernels/operation.py",
        "        if is_out_of_memory(error):\n            raise\n        _give_up(",
        "        _give_up(",
        "out of memory is taken for a broken kernel",
        ("core/test_kernel_choice.py", "host/test_fused_kernel.py"),
    ),
    Mutant(
        CORE + "kernels/operation.py",
        "if not error <= TOLERANCES[call.q.dtype]:",
        "if error > TOLERANCES[call.q.dtype]:",
        "a fused kernel that gives no numbers passes its check",
        ("core/test_kernel_choice.py",),
    ),
    Mutant(
        PATCHES + "skew_patch.py",
        "asks_kernel = active and allows_triton() and has_kernel(x.device)",
        "asks_kernel = active and has_kernel(x.device)",
        "--disable-triton-backend is ignored",
        ("host/test_fused_kernel.py",),
    ),
    Mutant(
        CORE + "schedule.py",
        "after = bisect_right(positions, progress)",
        "after = bisect_right(positions, progress * 0.999)",
        "a window starts a step late",
        ("core/test_schedule.py",),
    ),
    Mutant(
        CORE + "stability/measures.py",
        "pushed = (field * centred).lt_(0)",
        "pushed = (field * centred).le_(0)",
        "a token without a field counts as unstable",
        ("stability/test_stability_measures.py",),
    ),
    Mutant(
        CORE + "stability/measures.py",
        "low = torch.where((parts / gap).sum(dim=-2) > 0, low, middle)",
        "low = torch.where((parts / gap).sum(dim=-2) > 0, middle, low)",
        "curvature ends at the wrong end",
        ("stability/test_stability_measures.py",),
    ),
    Mutant(
        CORE + "evaluation/diversity.py",
        "((n - 1) / n * (left - left.mean())",
        "(1 / n * (left - left.mean())",
        "intervals are far too narrow",
        ("evaluation/test_diversity.py",),
    ),
)

HOST_LAYER = (
    Mutant(
        HOST + "settings.py",
        "(progress < self.end or self.end == 1)",
        "progress <= self.end",
        "the step at end_percent is inside the window",
        ("host/test_schedule.py",),
    ),
    Mutant(
        HOST + "settings.py",
        'SIDE_OF = {"cond": POSITIVE, "uncond": NEGATIVE}',
        'SIDE_OF = {"cond": NEGATIVE, "uncond": POSITIVE}',
        "apply_to cond acts on uncond",
        ("host/test_batching.py", "host/test_effect.py"),
    ),
    Mutant(
        HOST + "settings.py",
        " or self.beta == 0.0",
        "",
        "β = 0 patches the model",
        ("host/test_neutral.py", "host/test_nodes.py"),
    ),
    Mutant(
        HOST + "settings.py",
        "return (self.gamma_text, self.gamma_cross) != (1.0, 1.0)",
        "return self.gamma_text != 1.0",
        "gamma_cross without gamma_text does nothing",
        ("host/test_modal_factors.py",),
    ),
    Mutant(
        HOST + "progress.py",
        "BISECTIONS = 22",
        "BISECTIONS = 7",
        "progress is off by up to a hundredth",
        ("host/test_schedule.py",),
    ),
    Mutant(
        HOST + "progress.py",
        "list(sigmas)[:-1]",
        "list(sigmas)",
        "the picture of a schedule marks one step too many",
        ("host/test_nodes.py", "host/test_schedule.py"),
    ),
    Mutant(
        HOST + "run_report.py",
        "if sentence not in self.fallbacks:",
        "if sentence:",
        "a fallback is reported once a call",
        ("host/test_report.py",),
    ),
    Mutant(
        HOST + "run_report.py",
        "if self.model_calls == 0 or any(self.site_calls.values()):",
        "if self.model_calls >= 0:",
        "a run that did nothing says nothing",
        ("host/test_report.py",),
    ),
    Mutant(
        HOST + "run_report.py",
        "hit = [address for address in self.chosen if self.site_calls[address]]",
        "hit = list(self.chosen)",
        "the report counts sites that were never reached",
        ("host/test_report.py",),
    ),
    Mutant(
        HOST + "apply.py",
        "held = [site for site in chosen if is_replaced(site, model)]",
        "held: list[Site] = []",
        "sites inside another node's module are patched",
        ("host/test_other_modules.py", "host/test_composition.py"),
    ),
    Mutant(
        HOST + "apply.py",
        "if len(mapped) > MOST_MAPS:",
        "if len(mapped) > 40:",
        "any number of sites is mapped",
        ("host/test_probe.py",),
    ),
    Mutant(
        PATCHES + "site_patch.py",
        "    if new.model is old.model:\n        return\n",
        "    return\n",
        "a clone on another module runs the weights of the first",
        ("host/test_lifecycle.py",),
    ),
    Mutant(
        PATCHES + "side_runs.py",
        "return next((each.__self__ for each in wrappers if each.__self__.handle is self.handle), None)",
        "return self",
        "on several GPUs the patch of the first acts for all",
        ("host/test_other_modules.py",),
    ),
    Mutant(
        PATCHES + "side_runs.py",
        'return "interrupted"',
        'return "finished"',
        "a cancelled run is called finished",
        ("host/test_report.py", "host/test_probe.py"),
    ),
    Mutant(
        PATCHES + "site_patch.py",
        "            ended, acting.state = acting.state, outer\n",
        "            ended = acting.state\n",
        "the sites stay active after a model call",
        ("host/test_lifecycle.py",),
    ),
    Mutant(
        PATCHES + "site_patch.py",
        "            self.run, self.prompts, self._scale, self._joined = outer\n",
        "            pass\n",
        "the patch keeps the run after its end",
        ("host/test_lifecycle.py",),
    ),
    Mutant(
        PATCHES + "object_patches.py",
        "found = backup[walked] if walked in backup else getattr(found, name)",
        "found = getattr(found, name)",
        "our function is built on another clone's module",
        ("host/test_other_modules.py", "host/test_object_patches.py"),
    ),
    Mutant(
        PATCHES + "object_patches.py",
        "in reversed(patcher.object_patches) if",
        "in patcher.object_patches if",
        "a module that is replaced after ours breaks the plain model",
        ("host/test_object_patches.py",),
    ),
    Mutant(
        PATCHES + "object_patches.py",
        "            if module.forward == function:\n",
        "            if False:\n",
        "a load that fails leaves our function on the plain model",
        ("host/test_object_patches.py",),
    ),
    Mutant(
        PATCHES + "object_patches.py",
        "if isinstance(function, MethodType) and function.__self__ is module:",
        "if False:",
        "a copy of the network runs the weights of the first",
        ("host/test_copies.py",),
    ),
    Mutant(
        HOST + "shared.py",
        "    def __deepcopy__(",
        "    def __deepcopied__(",
        "the options of a model call cannot be copied",
        ("host/test_copies.py",),
    ),
    Mutant(
        PATCHES + "site_patch.py",
        "if not compiles_whole():",
        "if compiles_whole():",
        "every site breaks the graph of a compiled model",
        ("host/test_other_modules.py",),
    ),
    Mutant(
        PATCHES + "skew_override.py",
        "if call.q.shape != call.k.shape:",
        "if call.q.dim() != call.k.dim():",
        "a call with other keys than its queries is skewed",
        ("host/test_composition.py", "host/test_attention_calls.py"),
    ),
    Mutant(
        PATCHES + "skew_override.py",
        "        if rest:\n            return []\n",
        "",
        "a batch that does not split into passes is cut",
        ("host/test_attention_calls.py", "host/test_batching.py"),
    ),
    Mutant(
        PATCHES + "skew_override.py",
        "x = None if x is None else x[rows]",
        "x = None if x is None else x[: rows.stop - rows.start]",
        "the norm of one pass is taken from the input of the other",
        ("host/test_batching.py", "host/test_effect.py"),
    ),
    Mutant(
        PATCHES + "skew_override.py",
        'adapt_beta=settings.adaptive == "gamma and beta"',
        "adapt_beta=True",
        "adaptive gamma also adapts beta",
        ("host/test_effect.py", "host/test_batching.py"),
    ),
    Mutant(
        PATCHES + "skew_override.py",
        'over="sample"',
        'over="batch"',
        "adaptive control depends on the other images of a batch",
        ("host/test_batching.py",),
    ),
    Mutant(
        PATCHES + "skew_override.py",
        "(gamma, settings.gamma_text, settings.gamma_cross),",
        "(gamma, settings.gamma_text, settings.gamma_text),",
        "gamma_cross takes the value of gamma_text",
        ("host/test_modal_factors.py",),
    ),
    Mutant(
        PATCHES + "skew_override.py",
        'settings=replace(self.settings, norm="none")',
        "settings=replace(self.settings)",
        "patterns of the input get the norm guard twice",
        ("host/test_probe.py",),
    ),
    Mutant(
        HOST + "prompts.py",
        "names = [name for name in names if name in places.names[mark]] or names",
        "pass",
        "the copy of an area is taken for the prompt whose id it has",
        ("host/test_prompts.py",),
    ),
    Mutant(
        HOST + "prompts.py",
        "if rows != len(chunk_ids) * places.rows:",
        "if rows % len(chunk_ids):",
        "rows of tiles are named by their place",
        ("host/test_unnamed_prompts.py",),
    ),
    Mutant(
        PATCHES + "side_runs.py",
        "return self._of_our_node(patcher)",
        "return self._of_our_node(patcher) or self",
        "calls of another MODEL are taken for ours",
        ("host/test_second_model.py",),
    ),
    Mutant(
        PATCHES + "side_runs.py",
        "        self._end_aside(None if error is self._error_before else error)\n",
        "",
        "a run of the second MODEL of a guider never ends",
        ("host/test_second_model.py",),
    ),
    Mutant(
        PATCHES + "skew_patch.py",
        "active = self.settings.acts_in(prompts.chunks) and gammas != NEUTRAL",
        "active = gammas != NEUTRAL",
        "a run without the wanted pass is patched all the same",
        ("host/test_report.py", "host/test_batching.py"),
    ),
    Mutant(
        PATCHES + "skew_patch.py",
        "probe = slot.innermost if isinstance(slot, Observer) else None",
        "probe = None",
        "a probe before Skew Attention measures what does not leave the site",
        ("host/test_probe.py",),
    ),
    Mutant(
        PATCHES + "skew_patch.py",
        "if isinstance(previous, SkewOverride):",
        "if False:",
        "two Skew Attention nodes both act on one site",
        ("host/test_composition.py",),
    ),
    Mutant(
        PATCHES + "attention_backend.py",
        "factor = scale * math.sqrt(head_dim)",
        "factor = scale * math.sqrt(call.q.shape[-1])",
        "the softmax scale is off by √2",
        ("host/test_attention_calls.py",),
    ),
    Mutant(
        PATCHES + "attention_backend.py",
        "x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v)",
        "x.repeat(1, heads // x.shape[1], 1, 1) for x in (k, v)",
        "grouped keys meet the wrong queries",
        ("host/test_attention_calls.py", "host/test_attention_fuzz.py"),
    ),
    Mutant(
        PATCHES + "attention_backend.py",
        "mask[:, None] if mask.dim() == 3",
        "mask[None] if mask.dim() == 3",
        "a mask per sample is taken for one per head",
        ("host/test_attention_calls.py",),
    ),
    Mutant(
        PATCHES + "attention_backend.py",
        "                if is_out_of_memory(reason):\n                    raise\n",
        "",
        "out of memory is taken for a head dim the backend refuses",
        ("host/test_attention_calls.py", "host/test_report.py"),
    ),
    Mutant(
        PATCHES + "attention_backend.py",
        '"attention_sage": 128',
        '"attention_sage": 512',
        "sage attention is asked for head dims it does not take",
        ("host/test_attention_calls.py",),
    ),
    Mutant(
        PATCHES + "probe_patch.py",
        "if run.level % self.settings.every:",
        "if (run.level + 1) % self.settings.every:",
        "every_nth_step leaves the first step out",
        ("host/test_probe.py",),
    ),
    Mutant(
        PATCHES + "probe_run.py",
        "if sigma != self.sigma:",
        "if True:",
        "two calls at one noise level count as two steps",
        ("host/test_probe.py",),
    ),
    Mutant(
        PATCHES + "observer.py",
        "return self.previous.innermost if isinstance(self.previous, Observer) else self",
        "return self",
        "two probes on one site measure different things",
        ("host/test_probe.py",),
    ),
    Mutant(
        MODELS + "sites.py",
        "return int(first) <= int(part) <= int(last)",
        "return int(first) <= int(part) < int(last)",
        "a range in blocks leaves its end out",
        ("host/test_blocks_and_errors.py",),
    ),
    Mutant(
        MODELS + "site_rules.py",
        "            return slice(text_tokens, tokens)\n        return slice(0, tokens) if tokens == image_tokens",
        "            return slice(image_tokens, tokens)\n        return slice(0, tokens) if tokens == image_tokens",
        "γ acts among the wrong tokens of a joint site",
        ("host/test_effect.py", "host/test_modal_factors.py"),
    ),
    Mutant(
        MODELS + "site_rules.py",
        "        if self.is_first:\n            seen_lengths.clear()\n",
        "",
        "a text seen in an earlier forward counts in this one",
        ("host/test_length_sensors.py",),
    ),
    Mutant(
        HOST + "live_chart.py",
        "to_all=self.workflow != NO_ID",
        "to_all=False",
        "only the page that queued the prompt draws the chart",
        ("host/test_live.py",),
    ),
    Mutant(
        HOST + "output_folder.py",
        "not path.is_relative_to(output)",
        "not path.is_absolute()",
        "a file name leads out of the output folder",
        ("host/test_stability_nodes.py",),
    ),
    Mutant(
        HOST + "browser.py",
        '        log.exception("Symmetric Attention (SAD): %s", what)\n',
        "        raise\n",
        "an error in our description hides the sampler's",
        ("host/test_lifecycle.py",),
    ),
    Mutant(
        HOST + "run_origin.py",
        'json.dumps([node["class_type"], own, inputs]',
        'json.dumps([node["class_type"], own, sorted(inputs)]',
        "the report of another run is told where only widgets or wires differ",
        ("host/test_run_origin.py",),
    ),
    Mutant(
        HOST + "run_origin.py",
        "    if found:\n        return max(found)[-1]\n",
        "    if found or origins:\n        return len(origins) - 1\n",
        "the newest run is told, whatever is wired to after",
        ("host/test_run_origin.py",),
    ),
    Mutant(
        HOST + "run_origin.py",
        "parent = prompt.get_parent_node_id(parent)",
        "parent = None",
        "a run of a node that was made at run time is not found from outside of it",
        ("host/test_run_origin.py",),
    ),
)

MUTANTS = (*METHOD, *HOST_LAYER)
