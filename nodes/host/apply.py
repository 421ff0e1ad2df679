"""From a user's settings to a patched clone of their model, a plan in words and a report handle."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from comfy.model_patcher import ModelPatcher

from ...sad_core import StabilityBaseline, StabilityTrace
from ...sad_core.joint_attention import JOINT_NORMS
from ...sad_core.shown_text import shown
from ...sad_core.stability.feedback import FeedbackSettings
from .browser import show_on_node
from .measured_harm import measured_harm
from .models.families import ADVICE
from .models.site_rules import JOINT, OPT_IN_KINDS, TEXT_REFINER, UNVERIFIED
from .models.sites import Site, find_sites, list_addresses, reason_of_refusal, select_sites
from .models.unverified import find_unverified_sites
from .patches.feedback_patch import FEEDBACK, FeedbackPatch
from .patches.object_patches import object_path, own_object
from .patches.probe_patch import PROBE, ProbePatch
from .patches.site_patch import model_name
from .patches.skew_patch import SkewPatch
from .run_report import CREATIVITY, SKEW_ATTENTION, SkewReport
from .settings import ProbeSettings, SkewSettings

MOST_MAPS = 4
WITH_BLOCKS = (SKEW_ATTENTION, PROBE, FEEDBACK)  # nodes with the field blocks
LEFT_OUT = "Left out, because another node has replaced these modules"


class NotVerified(ValueError):
    """A model that no rule knows, with sites that may work: the sentence names them and the switch for them."""


def install_skew_attention(
    model: ModelPatcher,
    settings: SkewSettings,
    blocks: str = "",
    node_id: str | None = None,
    node: str = SKEW_ATTENTION,
) -> tuple[ModelPatcher, SkewReport]:
    """A clone of `model` with skew attention at the chosen blocks; `model` itself is never changed.

    Neutral settings give a plain clone: no patch, no cost, the same bits. So does a model that no rule knows, unless
    the settings ask for its sites.

    Args:
        model: ComfyUI's MODEL.
        settings: what to do.
        blocks: which sites, see `sites.select_sites`; empty means all but the refiners of the text.
        node_id: the node to show the report of each run on.
        node: display name of the node whose report it is.

    Raises:
        ValueError: the model is one of `families.REFUSALS`, it has no site this pack can read, or `blocks` names one
            that does not exist.
    """
    try:
        chosen, held, available = choose_sites(model, blocks, node, settings.act_where_unverified)
    except NotVerified as sentence:
        return model.clone(), SkewReport(str(sentence), neutral=True)
    name = model_name(model.model)
    notes = []
    if settings.is_modal and not any(site.kind == JOINT for site in chosen):
        settings = replace(settings, gamma_text=1.0, gamma_cross=1.0)
        notes = [
            "gamma_text and gamma_cross act only where text and image share one sequence (joint attention). None of "
            f"the chosen sites of {name} is of that kind, so both change nothing here."
        ]
    unpainted = sites_without_a_place(model, chosen) if settings.mask is not None else []
    if unpainted and unpainted == chosen:
        raise ValueError(
            f"The mask cannot be laid over the tokens of {list_addresses(chosen)} in {name}, so nothing was patched. "
            "Remove the mask, or choose other blocks."
        )
    chosen = [site for site in chosen if site not in unpainted]
    if unpainted:
        notes.append(f"Left out, because the mask cannot be laid over their tokens: {list_addresses(unpainted)}.")
    patched = model.clone()
    if settings.is_neutral:
        neutral = "γ is 1 throughout or β is 0, so the model is passed on unchanged."
        if settings.mask is not None and settings.mask.is_empty:
            neutral = "Nothing is painted in the mask, so the model is passed on unchanged."
        return patched, SkewReport("\n".join([neutral, *notes]), neutral=True)
    plain: list[Site] = []
    if settings.gamma_schedule.is_neutral:
        plain = [site for site in chosen if site.kind != JOINT]
        chosen = [site for site in chosen if site.kind == JOINT]
        if plain:
            notes = [
                "Unchanged, because γ is 1 throughout and these sites have no joint attention: "
                f"{list_addresses(plain)}."
            ]
        else:
            notes = []
    if settings.remark:
        notes.append(f"Warning: {settings.remark}.")
    elif node != CREATIVITY and not blocks.strip() and (harm := measured_harm(settings)):
        notes.append(harm)
    plan = describe_plan(name, settings, chosen, held, available, plain)
    report = SkewReport("\n".join([plan, *notes]), node=node)
    SkewPatch(settings, chosen, report, node_id).install(patched)
    return patched, report


def choose_sites(
    model: ModelPatcher, blocks: str, node: str, act_where_unverified: bool = False
) -> tuple[list[Site], list[Site], list[Site]]:
    """The sites of `model` that `blocks` asks for: those to patch, those another node holds, and all there are.

    Args:
        model: ComfyUI's MODEL.
        blocks: see `sites.select_sites`; empty means all but the refiners of the text.
        node: display name of the node that asks, for messages.
        act_where_unverified: whether a model that no rule knows is patched where its code reaches the host's attention.

    Raises:
        NotVerified: no rule knows the model, it has sites all the same, and nobody asked for them.
        ValueError: the model is one of `families.REFUSALS`, it has no site this pack can read, `blocks` names one that
            does not exist, or another node holds all of them.
    """
    network = own_object(model, "diffusion_model")
    originals = replaced_modules(model)
    sites, reason = find_sites(network, originals), reason_of_refusal(network)
    if reason is not None and not sites:
        refusal = f"{node} cannot work on {model_name(model.model)}, because {reason}."
        raise ValueError(f"{refusal} {ADVICE.get(reason, '')}".rstrip())
    sites = sites or find_unverified_sites(network, originals)
    if sites and sites[0].kind == UNVERIFIED and not act_where_unverified:
        advice = "Switch on act_where_unverified to use them."
        if node == CREATIVITY:
            advice = f"{node} cannot use them, but {SKEW_ATTENTION} can, with act_where_unverified."
        raise NotVerified(
            f"{model_name(model.model)} is not among the models that {node} knows, so nothing was patched. "
            f"It has {len(sites)} attention sites that are not verified: {list_addresses(sites)}. {advice}"
        )
    if not sites:
        raise ValueError(
            f"{model_name(model.model)} has no self-attention that {node} can read, so nothing was patched. "
            "docs/support.md in the repository lists the supported models."
        )
    chosen = select_sites(blocks, sites)
    held = [site for site in chosen if is_replaced(site, model)]
    if held == chosen:
        raise ValueError(
            f"Another node has replaced the modules of {list_addresses(held)} as a whole, so nothing was patched. "
            f"Put that node after {node}{', or choose other blocks' if node in WITH_BLOCKS else ''}."
        )
    return [site for site in chosen if site not in held], held, sites


def install_stability_probe(
    model: ModelPatcher, settings: ProbeSettings, blocks: str = "", map_site: str = "", node_id: str | None = None
) -> tuple[ModelPatcher, StabilityTrace]:
    """A clone of `model` whose attention is measured at the chosen blocks; not a bit of its output changes.

    Args:
        model: ComfyUI's MODEL, with or without skew attention.
        settings: what to measure, and how often.
        blocks: which sites, see `sites.select_sites`; empty means all but the refiners of the text.
        map_site: which of them are also mapped over the picture, at most `MOST_MAPS`; empty means none.
        node_id: the node to show each run on.

    Raises:
        ValueError: as `choose_sites`, for too many sites to map, and for a baseline of something else.
    """
    try:
        chosen, held, _ = choose_sites(model, blocks, PROBE, settings.act_where_unverified)
    except NotVerified as sentence:
        show_on_node(str(sentence), node_id)
        return model.clone(), StabilityTrace(unmeasured=str(sentence))
    if settings.baseline is not None:
        addresses = tuple(site.address for site in chosen)
        check_baseline(settings.baseline, model_name(model.model), settings, addresses)
    mapped = select_sites(map_site, chosen, "map_site") if map_site.strip() else []
    if len(mapped) > MOST_MAPS:
        raise ValueError(
            f'map_site "{shown(map_site)}" matches {len(mapped)} sites, but at most {MOST_MAPS} can be mapped over the '
            f"image. Name up to {MOST_MAPS} of {list_addresses(mapped)}."
        )
    settings = replace(settings, mapped=tuple(site.address for site in mapped))
    notes = [f"{LEFT_OUT}: {list_addresses(held)}."] if held else []
    patched, trace = model.clone(), StabilityTrace()
    ProbePatch(settings, chosen, trace, node_id, notes).install(patched)
    return patched, trace


def install_stability_feedback(
    model: ModelPatcher,
    feedback: FeedbackSettings,
    blocks: str = "",
    node_id: str | None = None,
    act_where_unverified: bool = False,
) -> tuple[ModelPatcher, StabilityTrace]:
    """A clone of `model` on which the γ of Skew Attention follows what is measured at the chosen blocks.

    Args:
        model: ComfyUI's MODEL, with or without skew attention.
        feedback: what is followed, and how.
        blocks: which sites are measured, see `sites.select_sites`; empty means all but the refiners of the text.
        node_id: the node to show each run on.
        act_where_unverified: as in `ProbeSettings`.

    Raises:
        ValueError: as `choose_sites`, and for a baseline of another model, other patterns or other sites.
    """
    try:
        chosen, held, _ = choose_sites(model, blocks, FEEDBACK, act_where_unverified)
    except NotVerified as sentence:
        show_on_node(str(sentence), node_id)
        return model.clone(), StabilityTrace(unmeasured=str(sentence))
    settings = ProbeSettings(
        (feedback.score.measure,), act_where_unverified=act_where_unverified, baseline=feedback.baseline
    )
    if feedback.baseline is not None:
        addresses = tuple(site.address for site in chosen)
        check_baseline(feedback.baseline, model_name(model.model), settings, addresses)
    notes = [f"{feedback.describe()}."]
    notes += [f"{LEFT_OUT}: {list_addresses(held)}."] if held else []
    patched, trace = model.clone(), StabilityTrace()
    FeedbackPatch(feedback, settings, chosen, trace, node_id, notes).install(patched)
    return patched, trace


def check_baseline(
    baseline: StabilityBaseline, model: str, settings: ProbeSettings, addresses: tuple[str, ...]
) -> None:
    """Refuse a baseline that says nothing of what will be measured.

    Args:
        baseline: what is normal.
        model: name of the model that will be measured.
        settings: what will be measured.
        addresses: of the sites that will be.

    Raises:
        ValueError: a baseline of another model, of other patterns, or with none of the measures or the sites.
    """
    shared = [measure for measure in settings.measures if measure in baseline.measures]
    if (baseline.model, baseline.patterns) != (model, settings.patterns) or not shared:
        raise ValueError(
            f"The baseline was made on {baseline.model} with {', '.join(baseline.measures)} and {baseline.patterns} "
            f"patterns, but {model} is now measured with {', '.join(settings.measures)} and {settings.patterns} "
            "patterns. Make a baseline of this model with these measures and patterns."
        )
    if not {*addresses} & {*baseline.sites}:
        raise ValueError(
            f"The baseline has none of the chosen sites, only {', '.join(baseline.sites[1:])}. Choose blocks among "
            "these, or make a baseline of the sites you want."
        )


def replaced_modules(model: ModelPatcher) -> dict[str, torch.nn.Module]:
    """Modules of the network that another clone's object patches replace until the next run, by path."""
    prefix = "diffusion_model."
    backup = model.object_patches_backup.items()
    return {
        path.removeprefix(prefix): module
        for path, module in backup
        if path.startswith(prefix) and isinstance(module, torch.nn.Module)
    }


def sites_without_a_place(model: ModelPatcher, sites: list[Site]) -> list[Site]:
    """Return the sites whose tokens are no part of a picture, so that a mask cannot be laid over them.

    The number of dimensions of a latent tells pictures and videos from sound and shapes (comfy/latent_formats.py).
    """
    latents = getattr(model.get_model_object("latent_format"), "latent_dimensions", 2)
    return [site for site in sites if latents < 2 or site.kind == TEXT_REFINER or not site.rule.is_in_picture]


def is_replaced(site: Site, model: ModelPatcher) -> bool:
    """Return whether an object patch of another node replaced the module of a site or of its sensor, or one around it.

    ComfyUI applies object patches in the order they were made (comfy/model_patcher.py, `patch_model`), so it would look
    for our site in their module. Where their patch comes after ours, ours is in the module that theirs calls.
    """
    paths = [object_path(site), *map(object_path, site.rule.sensors)]
    return any(path.startswith(f"{replaced}.") for path in paths for replaced in model.object_patches)


def describe_plan(
    model: str, settings: SkewSettings, chosen: list[Site], held: list[Site], sites: list[Site], spared: list[Site]
) -> str:
    """Return the plan in lines for people, with everything that cannot be done as asked.

    Args:
        model: its name.
        settings: what to do.
        chosen: the sites to patch.
        held: those that were asked for and belong to another node.
        sites: all there are.
        spared: those that were asked for and stay as they are, as γ is 1 there.
    """
    kinds = Counter(site.kind for site in chosen)
    lines = [
        f"{model}: {len(chosen)} of {len(sites)} attention sites "
        f"({', '.join(f'{count} {kind}' for kind, count in kinds.items())}): {list_addresses(chosen)}.",
        f"{settings.describe()}.",
    ]
    if kinds[UNVERIFIED]:
        lines.append(
            "The model is not verified. γ acts among all tokens of each call, text included, unless the model says "
            "where the image is."
        )
    if held:
        lines.append(f"{LEFT_OUT}: {list_addresses(held)}.")
    opt_in = [site for site in sites if site.kind in OPT_IN_KINDS and site not in (*chosen, *held, *spared)]
    if opt_in:
        lines.append(f"Skipped unless named in blocks: {list_addresses(opt_in)}. These sites see only the text.")
    if kinds[JOINT] and settings.is_modal:
        lines.append(
            "In joint attention γ acts among the tokens of the image, video, sound or shape, gamma_text among all "
            "other tokens, and gamma_cross between the two groups."
        )
    elif kinds[JOINT]:
        lines.append(
            "In joint attention γ acts among the tokens of the image, video, sound or shape. The attention "
            "scores between text and image, and among text, stay unchanged."
        )
    if any(site.rule.last_queries for site in chosen):
        lines.append(
            "In this model image tokens attend to text tokens, but text tokens do not attend to image tokens. γ acts "
            "among the image tokens. Their attention scores for other tokens stay unchanged."
        )
    without_input = Counter(site.kind for site in chosen if not site.shows_input)
    if without_input and settings.norm not in JOINT_NORMS:
        lines.append(
            f'norm "{settings.norm}" needs the input of the attention, which cannot be seen at '
            f'{" and ".join(without_input)} sites. They use "value" instead.'
        )
    return "\n".join(lines)
