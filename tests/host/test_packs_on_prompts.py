"""Packs that change what text or a control image says to each token, as those packs do it: NegPip, kohya's LLLite.

They are written from what their code does, and hold none of it. γ acts beside all of them, in both orders of the nodes.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP

from lab.testing.families.family import Family, draw
from lab.testing.families.rows import HOSTED
from lab.testing.families.runs import in_this_host
from lab.testing.neighbours import ORDERS, in_order
from lab.testing.recorder import distance, effect, stated, watch_attention

KOHYA = '''
"""A stand-in for kohya-ss/ControlNet-LLLite-ComfyUI, under its names."""

def load_control_net_lllite_patch(changes):
    class control_net_lllite_patch:
        def __call__(self, q, k, v, extra_options):
            block = *extra_options["block"], extra_options["block_index"]
            which = "attn1" if q.shape[-1] == k.shape[-1] else "attn2"
            return changes(which, block, q, k, v)

        def to(self, device):
            return self

    return control_net_lllite_patch()
'''


def assert_acts(family: Family, model: Any, plain: Any, report: Any, **options: Any) -> None:
    """Every site gives what the definition says of what reached it, and their work is to be seen without ours."""
    with watch_attention(model) as calls:
        family.sample(model, steps=1, **options)
    sites = [seen for seen in calls if family.site_of(seen.path) in family.paths]
    assert len(sites) >= len(family.paths)
    for seen in sites:
        scale = effect(family, seen, 1.5)
        assert distance(seen.out, stated(family, seen, 1.5)) <= 1e-3 * scale, seen.path
        assert distance(seen.out, stated(family, seen, 1.0)) > 1e-2 * scale, seen.path
    assert set(report.runs[-1].site_calls) == set(family.paths)
    assert not report.runs[-1].untouched
    theirs, nobodys = (family.sample(each, steps=1, **options) for each in (plain, family.model))
    assert distance(theirs, nobodys) > 1e-3 * nobodys.norm()


def loaded_as_a_pack(folder: Path, file: str, source: str) -> Any:
    """A file of a pack, named as the host names those it loads: by the path of the folder, then the file."""
    package = f"{folder}.{file}"
    path = folder / f"{file}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(package, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert package not in sys.modules
    return module


def by_token_and_place(which: str, block: tuple[str, int, int], q: Any, k: Any, v: Any) -> Any:
    """Add to each token what an MLP makes of it and of the control image at its place; not in every block."""
    if which == "attn2" or block[0] == "middle":
        return q, k, v

    def changed(x: torch.Tensor, part: str) -> torch.Tensor:
        name, width = f"{part} {block}", x.shape[2]
        there = draw(f"image {name}", (1, x.shape[1], 4)).expand(x.shape[0], -1, -1)
        inner = torch.cat([there, x], dim=2) @ draw(f"down {name}", (width + 4, 8)) / width**0.5
        result: torch.Tensor = x + 0.3 * F.relu(inner) @ draw(f"up {name}", (8, width))
        return result

    return changed(q, "q"), changed(k, "k"), v


@pytest.mark.parametrize("order", ORDERS)
def test_kohyas_lllite_changes_each_token_by_itself_so_gamma_acts(sd15, tmp_path, order):
    patch = loaded_as_a_pack(tmp_path, "node_control_net_lllite", KOHYA).load_control_net_lllite_patch
    patched_with = patch(by_token_and_place)

    def theirs(model):
        model = model.clone()
        model.set_model_attn1_patch(patched_with)
        model.set_model_attn2_patch(patched_with)
        return model

    patched, report = in_order(order, sd15.model, theirs)
    assert_acts(sd15, patched, theirs(sd15.model), report)


def keys_and_values_in_turn(q: Any, k: Any, v: Any, extra_options: Any) -> Any:
    """NegPip's `attn2_patch`: the text has two rows for a token, one for its key and one for its value."""
    return q, k[:, 0::2], v[:, 1::2]


def text_in_turn(family: Family, name: str) -> list[Any]:
    """A text as NegPip's encoder writes it, of which some tokens have the weight −1."""
    ((text, options),) = family.conditioning(name)
    signs = torch.ones(1, text.shape[1], 1)
    signs[:, 3:9] = -1
    return [[torch.stack([text, signs * text], dim=2).flatten(1, 2), options]]


@pytest.mark.parametrize("order", ORDERS)
def test_negpip_in_cross_attention_leaves_self_attention_to_gamma(sd15, order):
    def theirs(model):
        model = model.clone()
        model.set_model_attn2_patch(keys_and_values_in_turn)
        return model

    patched, report = in_order(order, sd15.model, theirs)
    texts = text_in_turn(sd15, "cond"), sd15.conditioning("uncond")
    assert_acts(sd15, patched, theirs(sd15.model), report, texts=texts)


SUFFIX, ADDED = 2, 4  # tokens of the text after those that NegPip adds, and these
COUNT = "negpip_tokens"


def with_added_text(executor: Any, *given: Any, **named: Any) -> Any:
    """Lengthen the text of a model call, and say so in the options, as NegPip does with Z-Image."""
    x, times, text, tokens, *rest = given
    added = draw("taken away", (1, ADDED, text.shape[2])).expand(len(text), -1, -1)
    longer = torch.cat([text[:, :-SUFFIX], added, text[:, -SUFFIX:]], dim=1)
    options = named["transformer_options"]
    options[COUNT] = longer.shape[1]
    try:
        return executor(x, times, longer, tokens + ADDED, *rest, **named)
    finally:
        del options[COUNT]


def taking_away(inner: Any, qkv: Any, x: Any, *given: Any, transformer_options: Any, **named: Any) -> Any:
    """The `forward` of an attention module, with the sign of the values of the added tokens turned round."""
    start = transformer_options[COUNT] - SUFFIX - ADDED

    def turned(_: Any, __: Any, projected: torch.Tensor) -> torch.Tensor:
        width = x.shape[2]
        projected = projected.clone()
        projected[:, start : start + ADDED, -width:] *= -1
        return projected

    hook = qkv.register_forward_hook(turned)
    try:
        return inner(x, *given, transformer_options=transformer_options, **named)
    finally:
        hook.remove()


def in_z_image(model: Any) -> Any:
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "negpip", with_added_text)
    for index in range(2):
        path = f"diffusion_model.layers.{index}.attention"
        inner, qkv = (model.get_model_object(f"{path}.{name}") for name in ("forward", "qkv"))
        model.add_object_patch(f"{path}.forward", partial(taking_away, inner, qkv))
    return model


def for_one_call(executor: Any, *given: Any, **named: Any) -> Any:
    """Turn round the sign of some of the text's values, by functions on the blocks that are gone after the call."""
    blocks, before = executor.class_obj.blocks, []
    for block in blocks:
        before.append((block, block.forward, block.attn.wv.forward))

        def turned(x: torch.Tensor, inner: Callable[..., torch.Tensor] = block.attn.wv.forward) -> torch.Tensor:
            values = inner(x).clone()
            values[:, 3:6] *= -1
            return values

        def around(*args: Any, module: Any = block, inner: Any = block.forward, to: Any = turned, **kwargs: Any) -> Any:
            module.attn.wv.forward = to
            return inner(*args, **kwargs)

        block.forward = around
    try:
        return executor(*given, **named)
    finally:
        for block, forward, values in before:
            block.forward, block.attn.wv.forward = forward, values


def in_krea_2(model: Any) -> Any:
    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "negpip", for_one_call)
    return model


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("name", "theirs"), [("ZImage", in_z_image), ("Krea2", in_krea_2)])
def test_negpip_in_joint_attention_leaves_the_image_to_gamma(name, theirs, order):
    if not in_this_host([HOSTED[name].config_class]):
        pytest.skip("newer than this ComfyUI")
    family = HOSTED[name]
    patched, report = in_order(order, family.model, theirs)
    assert_acts(family, patched, theirs(family.model), report)
    family.forget()
