"""The attention sites of one diffusion model: finding them, their addresses, and which of them a user has chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from torch import nn

from ....sad_core.schedule import split_entries
from ....sad_core.shown_text import shown
from .families import REFUSALS, RULES
from .reach import reach_of
from .site_rules import FOUND, OPT_IN_KINDS, OPTIONS, Rule, class_name
from .token_orders import no_input


@dataclass(frozen=True)
class Site:
    """One attention site of one model.

    Attributes:
        address: how users name it, such as `input.4.1`, `double.7`.
        path: the module's path below `diffusion_model`.
        rule: how it was recognised.
        reach: how an override gets to its attention call: `site_rules.OPTIONS`, `NETWORK` or `LAYER`.
    """

    address: str
    path: str
    rule: Rule
    reach: str = OPTIONS

    @property
    def kind(self) -> str:
        """The group of the site: self, joint, text refiner or not verified."""
        return self.rule.kind

    @property
    def groups(self) -> tuple[str, ...]:
        """The words that choose the site together with others: its kind, and video or audio where a model has both."""
        return (self.kind,) if self.rule.stream is None else (self.kind, self.rule.stream)

    @property
    def shows_input(self) -> bool:
        """True if the site's call has the input of its attention, which two of the norms need."""
        return self.rule.block_input is not no_input


def find_sites(diffusion_model: nn.Module, originals: Mapping[str, nn.Module] | None = None) -> list[Site]:
    """All attention sites of a model that this pack knows how to read, in the order of the model.

    Args:
        diffusion_model: the network, as it is in memory.
        originals: by path, the modules that another clone has replaced until the next run.
    """
    return list(_walk(diffusion_model, dict(own_modules(diffusion_model, originals or {}))))


def reason_of_refusal(diffusion_model: nn.Module) -> str | None:
    """The reason why γ has no meaning in this class of model, or cannot reach it without a site; else None."""
    return REFUSALS.get(class_name(diffusion_model))


def own_modules(network: nn.Module, originals: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of everything in the network, each once, with the originals in their places."""
    seen: set[nn.Module] = set()

    def below(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if module in seen:
            return
        seen.add(module)
        yield path, module
        for name, child in module.named_children():
            inner = f"{path}.{name}" if path else name
            yield from below(inner, originals.get(inner, child))

    yield from below("", network)


def _walk(network: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[Site]:
    rules = [
        rule
        for rule in RULES
        if rule.network in (None, class_name(network)) and all(sensor.path in modules for sensor in rule.sensors)
    ]
    for path, module in modules.items():
        name = class_name(module)
        for rule in rules:
            match = rule.path.fullmatch(path) if rule.module == name else None
            if match is not None and _is_self_attention(rule, path, modules):
                reach = reach_of(module) if rule.reach == FOUND else rule.reach
                if reach is not None:
                    fields = {key: value or "0" for key, value in match.groupdict().items()}
                    yield Site(rule.address.format(**fields), path, rule, reach)
                break


def _is_self_attention(rule: Rule, path: str, modules: Mapping[str, nn.Module]) -> bool:
    """Return whether a module that can be both is self-attention, by its own flag or by that of its block."""
    block = modules.get(path.rpartition(".")[0])
    return not getattr(block, "disable_self_attn", False) and (rule.flag is None or getattr(modules[path], rule.flag))


WHO_HAS = {"blocks": "this model has", "map_site": "among the measured sites there is"}


def select_sites(wanted: str, sites: Sequence[Site], field: str = "blocks") -> list[Site]:
    """The sites a user asked for, in the order of the model.

    Args:
        wanted: addresses (`input.4.1`), their beginnings (`input.4`, `double`), ranges (`double.0-9`, `input.4-8`) and
            groups (`self`, `joint`, `text refiner`, `video`, `audio`), separated by commas or lines; empty means all
            but the text refiners.
        sites: what the model has.
        field: the widget it was written in, one of `WHO_HAS`.

    Raises:
        ValueError: an entry that fits no site; the message lists what exists.
    """
    entries = split_entries(wanted)
    opt_in = [site for site in sites if site.kind in OPT_IN_KINDS]
    if not entries:
        return [site for site in sites if site not in opt_in]
    chosen: set[str] = set()
    for entry in entries:
        word = entry.lower()
        found = {site.address for site in sites if word in site.groups or _is_below(site.address, word)}
        if not found:
            groups = sorted({group for site in sites for group in site.groups})
            empty = "none" if field == "map_site" else f"all{' except the text refiners' if opt_in else ''}"
            raise ValueError(
                f'{field}: {WHO_HAS[field]} no attention site "{shown(entry)}". Valid entries are '
                f"{list_addresses(sites)} and the group{'s' if len(groups) > 1 else ''} {', '.join(groups)}. "
                f"Ranges such as 0-3 work. Empty means {empty}.{_did_you_mean(word, sites)}"
            )
        chosen |= found
    return [site for site in sites if site.address in chosen]


def _did_you_mean(word: str, sites: Sequence[Site]) -> str:
    """Return a question about the group, the address or the beginning of one that is most like `word`, or nothing."""
    parts = word.count(".") + 1
    known = [group for site in sites for group in site.groups]
    known += [".".join(site.address.split(".")[:parts]) for site in sites]
    near = get_close_matches(word, dict.fromkeys(known), n=1, cutoff=0.7)
    return f' Did you mean "{near[0]}"?' if near else ""


def list_addresses(sites: Sequence[Site]) -> str:
    """Addresses for a message; runs that differ only in the last number are written as a range."""
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
    """Return whether `address` starts with the parts of `entry`: words, numbers or ranges of numbers."""
    parts, wanted = address.split("."), entry.split(".")
    return len(wanted) <= len(parts) and all(map(_part_fits, parts, wanted))


def _part_fits(part: str, wanted: str) -> bool:
    first, dash, last = wanted.partition("-")
    if dash and part.isdigit() and _is_number(first) and _is_number(last):
        return int(first) <= int(part) <= int(last)
    return part == wanted


def _is_number(text: str) -> bool:
    """Return whether a text is a whole number of at most nine digits."""
    return text.isdecimal() and len(text) <= 9
