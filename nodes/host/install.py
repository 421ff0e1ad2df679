"""From a user's settings to a patched clone of their model, a plan in words and a report handle."""

from __future__ import annotations

from collections import Counter

import torch
from comfy.model_patcher import ModelPatcher

from ...sad_core.joint_attention import JOINT_NORMS
from .families import UNASKED
from .patch import SkewPatch, model_name, object_path
from .report import SkewReport
from .settings import SkewSettings
from .sites import Site, find_sites, list_addresses, reason_of_refusal, select_sites


def install_skew_attention(
    model: ModelPatcher, settings: SkewSettings, blocks: str = "", node_id: str | None = None
) -> tuple[ModelPatcher, SkewReport]:
    """A clone of `model` with skew attention at the chosen blocks; `model` itself is never changed.

    Neutral settings give a plain clone: no patch, no cost, the same bits.

    Args:
        model: ComfyUI's MODEL.
        settings: what to do.
        blocks: which sites, see `sites.select_sites`; empty means all but the refiners of the text.
        node_id: the node to show the report of each run on.

    Raises:
        ValueError: the model is one of `families.REFUSALS`, it has no site this pack can read, or `blocks` names one
            that does not exist.
    """
    reason = reason_of_refusal(model.model.diffusion_model)
    if reason is not None:
        raise ValueError(f"Skew Attention (SAD) cannot work on {model_name(model.model)}, because {reason}.")
    sites = find_sites(model.model.diffusion_model, replaced_modules(model))
    if not sites:
        raise ValueError(
            f"{model_name(model.model)} has no self-attention that Skew Attention (SAD) can read, so nothing was "
            "patched. The models it knows are listed in docs/support.md."
        )
    chosen = select_sites(blocks, sites)
    held = [site for site in chosen if is_replaced(site, model)]
    if held == chosen:
        raise ValueError(
            f"Another node has replaced the modules of {list_addresses(held)} as a whole, so nothing was patched. "
            "Put that node after Skew Attention (SAD), or choose other blocks."
        )
    chosen = [site for site in chosen if site not in held]
    patched = model.clone()
    if settings.is_neutral:
        return patched, SkewReport("γ is 1 all along or β is 0: the model is passed on as it is.", neutral=True)
    report = SkewReport(describe_plan(model_name(model.model), settings, chosen, held, sites))
    SkewPatch(settings, chosen, report, node_id).install(patched)
    return patched, report


def replaced_modules(model: ModelPatcher) -> dict[str, torch.nn.Module]:
    """Modules of the network that stand aside for another clone's object patches until the next run, by path."""
    prefix = "diffusion_model."
    backup = model.object_patches_backup.items()
    return {
        path.removeprefix(prefix): module
        for path, module in backup
        if path.startswith(prefix) and isinstance(module, torch.nn.Module)
    }


def is_replaced(site: Site, model: ModelPatcher) -> bool:
    """Whether another node has replaced the module of a site, or one around it, or a witness of it, by an object patch.

    ComfyUI undoes object patches in the order they were made, so a patch of ours inside such a module would stay behind
    on the plain model (comfy/model_patcher.py, `unpatch_model`).
    """
    paths = [object_path(site), *map(object_path, site.rule.witnesses)]
    return any(path.startswith(f"{replaced}.") for path in paths for replaced in model.object_patches)


def describe_plan(model: str, settings: SkewSettings, chosen: list[Site], held: list[Site], sites: list[Site]) -> str:
    """What will be done, in lines for people; what cannot be done as asked is said too."""
    kinds = Counter(site.kind for site in chosen)
    lines = [
        f"{model}: {len(chosen)} of {len(sites)} attention sites "
        f"({', '.join(f'{count} {kind}' for kind, count in kinds.items())}): {list_addresses(chosen)}.",
        f"{settings.describe()}.",
    ]
    if held:
        lines.append(f"Left out, because another node has replaced these modules: {list_addresses(held)}.")
    unasked = [site for site in sites if site.kind in UNASKED and site not in (*chosen, *held)]
    if unasked:
        lines.append(f"Left alone until they are named in blocks: {list_addresses(unasked)}, which see the text alone.")
    if kinds["joint"]:
        lines.append("In joint attention γ acts among the image tokens; text rows and text columns stay as they are.")
    without_input = Counter(site.kind for site in chosen if not site.shows_input)
    if without_input and settings.norm not in JOINT_NORMS:
        lines.append(
            f'The norm "{settings.norm}" needs the input of the attention; {" and ".join(without_input)} sites use '
            '"value" instead.'
        )
    return "\n".join(lines)
