"""Where self-attention lives in a diffusion model: sites, their addresses, and which of their tokens belong together.

A site is the innermost module whose `forward` makes the attention calls. Whether it is self-attention is read from the
module's class and place, never from shapes: cross-attention has square logits too whenever the text is as long as the
image (an SD1.5 middle block at 448×704 has 77 tokens).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ...sad_core.schedule import split_entries


@dataclass(frozen=True)
class SiteCall:
    """The arguments of one call of a site's `forward`."""

    args: tuple
    kwargs: Mapping[str, Any]

    def argument(self, name: str, position: int) -> Any:
        """The argument called `name`, or the positional one at `position`; None where it was not given."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[position] if position < len(self.args) else None

    @property
    def options(self) -> Mapping[str, Any]:
        """The `transformer_options` of the call, empty where it got none."""
        return self.kwargs.get("transformer_options") or {}


# From a call and its number of tokens to those γ acts among, or None where the two do not fit together.
InnerTokens = Callable[[SiteCall, int], "slice | None"]
BlockInput = Callable[[SiteCall], "Tensor | None"]


def all_tokens(call: SiteCall, tokens: int) -> slice | None:
    """One modality: every token."""
    return slice(0, tokens)


def after_text(text: tuple[str, int], image: tuple[str, int]) -> InnerTokens:
    """[text, image], with the two lengths read from arguments of the block; an image-only call is all inner."""

    def inner(call: SiteCall, tokens: int) -> slice | None:
        text_tokens, image_tokens = (call.argument(*where).shape[1] for where in (text, image))
        if tokens == text_tokens + image_tokens:
            return slice(text_tokens, tokens)
        return slice(0, tokens) if tokens == image_tokens else None

    return inner


def image_slice(call: SiteCall, tokens: int) -> slice | None:
    """[text, image] in one stream; the model itself says where the image is (`img_slice`)."""
    start, stop = call.options.get("img_slice") or (None, None)
    return slice(start, stop) if stop is not None and start < stop <= tokens else None


def no_input(call: SiteCall) -> Tensor | None:
    """Whole blocks normalise inside, so their attention input cannot be seen from the call."""
    return None


def first_argument(call: SiteCall) -> Tensor | None:
    """Attention modules get the normalised block input as their first argument, `(B, L, C)`."""
    return call.argument("x", 0)


@dataclass(frozen=True)
class Rule:
    """How one kind of site is recognised and named.

    Attributes:
        module: the class, as `file.Class` below `comfy.ldm`.
        path: matched against the module's path in the diffusion model.
        address: what users call the site, a template filled from the groups of `path`.
        kind: "self" or "joint".
        inner: which tokens γ acts among.
        block_input: the `(B, L, C)` input that the "input" and "projected" norms need.
    """

    module: str
    path: re.Pattern[str]
    address: str
    kind: str
    inner: InnerTokens = all_tokens
    block_input: BlockInput = no_input


UNET_PLACE = r"(?P<side>input|middle|output)_blocks?\.(?:(?P<number>\d+)\.)?\d+"
RULES = (
    Rule(
        "modules.attention.CrossAttention",
        re.compile(UNET_PLACE + r"\.transformer_blocks\.(?P<index>\d+)\.attn1"),
        "{side}.{number}.{index}",
        "self",
        block_input=first_argument,
    ),
    Rule(
        "modules.attention.CrossAttention",
        re.compile(UNET_PLACE + r"\.time_stack\.(?P<index>\d+)\.attn1"),
        "{side}.{number}.{index}.time",
        "self",
        block_input=first_argument,
    ),
    Rule(
        "modules.diffusionmodules.mmdit.JointBlock",
        re.compile(r"joint_blocks\.(?P<index>\d+)"),
        "joint.{index}",
        "joint",
        after_text(text=("context", 0), image=("x", 1)),
    ),
    Rule(
        "flux.layers.DoubleStreamBlock",
        re.compile(r"double_blocks\.(?P<index>\d+)"),
        "double.{index}",
        "joint",
        after_text(text=("txt", 1), image=("img", 0)),
    ),
    Rule(
        "flux.layers.SingleStreamBlock",
        re.compile(r"single_blocks\.(?P<index>\d+)"),
        "single.{index}",
        "joint",
        image_slice,
    ),
)


@dataclass(frozen=True)
class Site:
    """One attention site of one model.

    Attributes:
        address: how users name it, such as `input.4.1`, `double.7`.
        path: the module's path below `diffusion_model`.
        rule: how it was recognised.
    """

    address: str
    path: str
    rule: Rule

    @property
    def kind(self) -> str:
        """The group of the site: self or joint."""
        return self.rule.kind


def find_sites(diffusion_model: nn.Module, originals: Mapping[str, nn.Module] | None = None) -> list[Site]:
    """All self- and joint-attention sites of a model that this pack knows how to read, in the order of the model.

    Args:
        diffusion_model: the network, as it stands in memory.
        originals: by path, the modules in whose place another clone's replacements stand until the next run.
    """
    return list(_walk(dict(_own_modules(diffusion_model, originals or {}))))


def _own_modules(network: nn.Module, originals: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of everything in the network, with the originals in their places."""
    for path, module in network.named_modules():
        if path in originals:
            for inner, original in originals[path].named_modules():
                yield f"{path}.{inner}".rstrip("."), original
        elif not any(path.startswith(f"{replaced}.") for replaced in originals):
            yield path, module


def _walk(modules: Mapping[str, nn.Module]) -> Iterator[Site]:
    for path, module in modules.items():
        name = f"{type(module).__module__.removeprefix('comfy.ldm.')}.{type(module).__name__}"
        for rule in RULES:
            match = rule.path.fullmatch(path) if rule.module == name else None
            if match is None or getattr(modules.get(path.rpartition(".")[0]), "disable_self_attn", False):
                continue
            fields = {key: value or "0" for key, value in match.groupdict().items()}
            yield Site(rule.address.format(**fields), path, rule)


def select_sites(wanted: str, sites: Sequence[Site]) -> list[Site]:
    """The sites a user asked for, in the order of the model.

    Args:
        wanted: addresses (`input.4.1`), their beginnings (`input.4`, `double`), ranges (`double.0-9`, `input.4-8`) and
            groups (`self`, `joint`), separated by commas or lines; empty means all.
        sites: what the model has.

    Raises:
        ValueError: an entry that fits no site; the message lists what exists.
    """
    entries = split_entries(wanted)
    if not entries:
        return list(sites)
    chosen: set[str] = set()
    for entry in entries:
        found = {site.address for site in sites if entry.lower() == site.kind or _is_below(site.address, entry.lower())}
        if not found:
            raise ValueError(
                f'blocks: this model has no attention site "{entry}". It has {list_addresses(sites)}; the groups '
                f"{', '.join(sorted({site.kind for site in sites}))}; ranges such as 0-3 work. Empty means all."
            )
        chosen |= found
    return [site for site in sites if site.address in chosen]


def list_addresses(sites: Sequence[Site]) -> str:
    """Addresses for a message; runs that differ in the last number alone are written as a range."""
    runs: list[tuple[str, list[int]]] = []
    for site in sites:
        stem, _, last = site.address.rpartition(".")
        number = int(last) if last.isdigit() else None
        if number is None:
            runs.append((site.address, []))
        elif runs and runs[-1][0] == stem and runs[-1][1] and runs[-1][1][-1] == number - 1:
            runs[-1][1].append(number)
        else:
            runs.append((stem, [number]))
    written = []
    for stem, numbers in runs:
        if not numbers:
            written.append(stem)
        else:
            written.append(f"{stem}.{numbers[0]}" + (f"-{numbers[-1]}" if len(numbers) > 1 else ""))
    return ", ".join(written)


def _is_below(address: str, entry: str) -> bool:
    """Whether `address` starts with the parts of `entry`, each a word, a number or a range of numbers."""
    parts, wanted = address.split("."), entry.split(".")
    return len(wanted) <= len(parts) and all(map(_part_fits, parts, wanted))


def _part_fits(part: str, wanted: str) -> bool:
    first, dash, last = wanted.partition("-")
    if dash and part.isdigit() and first.isdigit() and last.isdigit():
        return int(first) <= int(part) <= int(last)
    return part == wanted
