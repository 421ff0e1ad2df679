"""The demo model as users load it: from the folder of checkpoints, with a registry archive or in a clone."""

from __future__ import annotations

import shutil
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import comfy.utils
import folder_paths
import pytest
import torch
from symmetric_attention.demo_model.shape import ADDRESS, CATEGORIES, FILE, PATH
from symmetric_attention.nodes.demo_model import DemoModelNode
from symmetric_attention.nodes.host import demo_model

from demo_model.bands import encode
from lab.demo.model import COMFYUI_UNET_CONFIG, MODEL_FILE, NO_CATEGORY, build_unet, load_model
from lab.folders import ROOT
from lab.generate.archive import write_archive
from lab.testbed.shape import COMFYUI_UNET_CONFIG as TESTBED_CONFIG
from lab.testing.in_process_host import load_pack
from lab.testing.run_nodes import execute


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture
def checkpoints(tmp_path, monkeypatch) -> Path:
    """An empty folder of checkpoints, and a pack that is no clone."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([str(tmp_path)], {".safetensors"}))
    monkeypatch.setattr(demo_model, "CLONE", tmp_path / "nowhere")
    return tmp_path


def test_the_parts_are_those_of_the_file(model):
    for category in CATEGORIES:
        _, positive, negative, _, latent = execute(DemoModelNode, picture=category, count=3)
        assert torch.equal(positive[0][0][0], model.context[CATEGORIES.index(category)])
        assert torch.equal(negative[0][0][0], model.context[NO_CATEGORY])
        assert latent["samples"].shape == (3, *model.latent_shape)
        assert not latent["samples"].any()


@pytest.mark.parametrize("config", [COMFYUI_UNET_CONFIG, TESTBED_CONFIG], ids=["demo", "test bed"])
def test_every_weight_has_a_place_in_comfyui(config):
    """ComfyUI's own table of names covers every weight of the UNet, each with a place of its own."""
    places = comfy.utils.unet_to_diffusers(config)
    names = list(build_unet(config).state_dict())
    assert [name for name in names if name not in places] == []
    assert len({places[name] for name in names}) == len(names)


@pytest.mark.parametrize("side", [32, 48, 128])
def test_the_vae_is_the_exact_way_to_latents_and_back(model, side):
    """Also of pictures that are larger than those the model was trained on, whole and in tiles."""
    vae = execute(DemoModelNode)[3]
    pictures = torch.rand(2, side, side, 3)
    latents = vae.encode(pictures)
    whitening = model.latent_mean.double(), model.latent_std.double()
    wanted = encode(pictures.movedim(-1, 1).double(), *whitening).float()
    torch.testing.assert_close(latents.cpu(), wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(vae.decode(latents).cpu(), pictures, rtol=0, atol=1e-5)
    torch.testing.assert_close(vae.decode_tiled(latents, 32, 32, 8).cpu(), pictures, rtol=0, atol=1e-5)
    assert vae.decode(latents + 3).max() <= 1


def test_without_the_file_one_sentence_says_where_to_get_it(checkpoints):
    with pytest.raises(FileNotFoundError) as told:
        execute(DemoModelNode)
    assert ADDRESS in str(told.value)
    assert str(checkpoints) in str(told.value)
    assert demo_model.fingerprint() == ""
    shutil.copy(MODEL_FILE, checkpoints)
    assert str(checkpoints) in demo_model.fingerprint()
    execute(DemoModelNode)


def test_the_address_and_the_pages_that_give_it_lead_to_the_file():
    assert ADDRESS.endswith(f"/raw/main/{PATH}")
    assert (ROOT / PATH).samefile(MODEL_FILE)
    for page in ("web/docs/SADDemoModel.md", "docs/tour.md"):
        assert ADDRESS in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"<html>", MODEL_FILE.read_bytes()[:-100]])
def test_a_file_that_is_not_whole_is_refused_with_the_address(checkpoints, content):
    (checkpoints / FILE).write_bytes(content)
    with pytest.raises(ValueError, match=f"is not the file of this version.*{FILE}"):
        execute(DemoModelNode)


def test_another_model_under_the_same_name_is_refused(checkpoints):
    shutil.copy(ROOT / "lab" / "demo" / "classifier.safetensors", checkpoints / FILE)
    with pytest.raises(ValueError, match="is not the file of this version"):
        execute(DemoModelNode)


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_archive_of_the_registry_draws_with_the_file_in_its_folder(checkpoints, tmp_path):
    """Beside a ComfyUI, without a clone: the pack of the archive, its own nodes, a picture that γ changes."""
    write_archive(tmp_path / "pack.zip")
    with zipfile.ZipFile(tmp_path / "pack.zip") as packed:
        packed.extractall(tmp_path / "pack")
    name = "unpacked_archive"
    try:
        load_pack(name, tmp_path / "pack")
        node = import_module(f"{name}.nodes.demo_model").DemoModelNode
        assert Path(sys.modules[node.__module__].__file__).is_relative_to(tmp_path)
        with pytest.raises(FileNotFoundError, match=FILE):
            execute(node)
        shutil.copy(MODEL_FILE, checkpoints)
        plain, positive, negative, vae, latent = execute(node)
        skew = import_module(f"{name}.nodes.skew_attention").SkewAttentionNode
        patched = execute(skew, model=plain, gamma=2.0, beta=1.0)[0]
        pictures = [vae.decode(_drawn(model, positive, negative, latent)) for model in (plain, patched)]
    finally:
        for module in [each for each in sys.modules if each.partition(".")[0] == name]:
            del sys.modules[module]
    assert pictures[0].shape == (1, 32, 32, 3)
    assert (pictures[0] - pictures[1]).abs().max() > 0.01


def _drawn(model, positive, negative, latent):
    # The host's. A plain import would be taken for the pack's nodes by mypy.
    common_ksampler = import_module("nodes").common_ksampler

    (drawn,) = common_ksampler(model, 1, 2, 2.0, "euler", "simple", positive, negative, latent)
    return drawn["samples"]
