"""Measure Your Checkpoint: the whole run on tiny models, cancelled and gone on with, and what it refuses."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import comfy.model_management
import comfy.sample
import comfy.supported_models
import pytest
import torch
from comfy_execution.graph import DynamicPrompt
from PIL import Image
from symmetric_attention.nodes import measure_checkpoint
from symmetric_attention.nodes.creativity import CreativityNode
from symmetric_attention.nodes.host import named_files, run_origin
from symmetric_attention.nodes.host.best_of import live_rows
from symmetric_attention.nodes.host.trial import shelf
from symmetric_attention.nodes.host.trial import source as picture_source
from symmetric_attention.nodes.host.trial.outcome import calibration_of
from symmetric_attention.nodes.host.trial.rivals import with_rescaled_score, without_early_guidance
from symmetric_attention.nodes.host.trial.sampling import Checkpoint
from symmetric_attention.nodes.measure_checkpoint import MeasureCheckpointNode
from symmetric_attention.nodes.plots import sheet as sheet_plot
from symmetric_attention.nodes.plots.style import MARGIN
from symmetric_attention.sad_core.evaluation.trial.course import Course

from lab.folders import ROOT
from lab.testing.families.building import host_class
from lab.testing.families.rows import REFUSED
from lab.testing.made_up_trials import made_up_trial
from lab.testing.run_nodes import execute, skew
from lab.testing.sweep_images import read_table
from lab.testing.vision_models import tiny_clip_vision
from sad_core.evaluation.measures import PIXELS
from sad_core.evaluation.trial.plan import COSTS, FEWEST_SEEDS, MOST_SEEDS, SHARE_AROUND
from sad_core.evaluation.trial.result_file import load_trial, trial_to_json
from sad_core.evaluation.trial.ways import LADDER, PLAIN, RIVALS

STEPS = 1
SHORT = LADDER[2:4]  # in place of the whole ladder, for time
FEWEST = FEWEST_SEEDS * (1 + len(SHORT) + 2 + len(RIVALS) + COSTS)
FEWEST_MINUTES = (FEWEST + 0.5) / 60 / (1 - SHARE_AROUND)  # a second a picture


class Decoder:
    """In place of a VAE: the first channels of a latent."""

    def decode(self, latent):
        return latent[:, :3].movedim(1, -1).sigmoid()


@pytest.fixture
def now():
    """The seconds of a clock."""
    return [0]


@pytest.fixture(autouse=True)
def output(tmp_path, monkeypatch, now):
    """An output folder, a short ladder, and a clock by which every picture takes a second."""
    folder_paths = importlib.import_module("folder_paths")
    sample = Checkpoint.sample

    def sample_and_count(checkpoint, way, positive, seeds, show):
        now[0] += len(seeds)
        return sample(checkpoint, way, positive, seeds, show)

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(Checkpoint, "sample", sample_and_count)
    monkeypatch.setattr(picture_source, "clock", lambda: now[0])
    monkeypatch.setattr(measure_checkpoint, "LADDER", SHORT)
    return tmp_path


def inputs_of(family, model=None, **widgets):
    return {
        "model": family.model if model is None else model,
        "vae": Decoder(),
        "latent_image": {"samples": torch.zeros(1, *family.latent)},
        "positive": family.conditioning("cond"),
        "negative": family.conditioning("uncond"),
        "minutes": FEWEST_MINUTES,
        "steps": STEPS,
        "cfg": family.cfg,
        **widgets,
    }


def measure(family, model=None, **widgets):
    return execute(MeasureCheckpointNode, **inputs_of(family, model, **widgets))


def pictures(output):
    return sorted(output.rglob("*.png"))


def test_the_whole_trial(sd15, output, monkeypatch):
    """A sheet, a table, a summary, a file that is accepted, and a slider; its pictures are those of the sampler."""
    sheets = []
    monkeypatch.setattr(sheet_plot, "figure_to_image", lambda figure: sheets.append(figure) or torch.zeros(1, 4, 4, 3))
    _, table, summary, file, calibration = measure(sd15, name="a/b", first_seed=5, largest_drift=0.6)
    assert file == "trial/own_00001_.trial.json"
    assert calibration == "trial/own_00001_.calibration.json"
    trial = load_trial(output / file)
    assert (trial.model, trial.name, trial.machine) == ("SD15", "a b", "CPU")
    assert trial.counted_seeds == (4, 4)
    assert [each.way for each in trial.choice] == [PLAIN, *SHORT]
    assert [each.way for each in trial.report] == [PLAIN, trial.best.way, *RIVALS]
    assert all(each.row["pixel_drift"].value > 0 for each in (*trial.choice, *trial.report) if each.way != PLAIN)
    assert {each.seconds for each in (*trial.report, *trial.costs)} == {1.0}
    assert [each.name for each in trial.costs] == [f"{trial.chosen} with β 0.5", "γ 1 with the probe"]
    assert trial.took == pytest.approx(len(pictures(output)) / 60, rel=1e-4)
    assert len(read_table(table)) == 1 + len(SHORT) + 2 + len(RIVALS)
    assert summary.splitlines()[1].startswith(
        f"a b: {trial.chosen} was chosen among 2 settings of γ, tried on 4 seeds and 1 prompt."
    )
    (sheet,) = sheets
    labels = {cell.get_ylabel() for cell in sheet.axes}
    assert labels == {"γ 1\nunpatched model", trial.chosen, ""}
    assert len(sheet.axes) == 2 * 4
    with Image.open(output / file.replace(".trial.json", ".sheet.jpg")) as saved:
        assert saved.size == (4 + 2 * MARGIN, 4 + 2 * MARGIN)
        assert set(saved.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}  # no workflow
    _, text, _ = execute(CreativityNode, model=sd15.model, position=1.0, file=calibration)
    assert "Not calibrated" not in text
    assert_like_the_sampler(sd15, output, 5)


def assert_like_the_sampler(family, output, seed):
    """The pictures of γ = 1 and γ 2 are ComfyUI's own, with our node before it, in 8 bits."""
    latent = torch.zeros(1, *family.latent)
    for name, model in (("γ_1", family.model), ("γ_2", skew(family.model, gamma=2.0, beta=1.0)[0])):
        (path,) = (
            each for each in pictures(output) if each.name.startswith(f"{name}_") and each.stem.endswith(f"_{seed}")
        )
        samples = comfy.sample.sample(
            model,
            comfy.sample.prepare_noise(latent, seed),
            STEPS,
            family.cfg,
            "euler",
            "normal",
            family.conditioning("cond"),
            family.conditioning("uncond"),
            latent,
            disable_pbar=True,
            seed=seed,
        )
        want = (Decoder().decode(samples)[0] * 255).round().to(torch.uint8)
        with Image.open(path) as picture:
            got = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(want.shape)
        assert torch.equal(got, want), name


def test_a_cancelled_trial_goes_on_and_gives_the_same(sd15, output):
    """The bar never runs back; a trial with nothing new samples nothing."""
    whole = measure(sd15)
    calls = []

    def count(_, given):
        calls.append(len(given[0]))
        if len(calls) == 8:
            raise comfy.model_management.InterruptProcessingException

    handle = sd15.model.model.diffusion_model.register_forward_pre_hook(count)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            measure(sd15, filename_prefix="other/own")
        there = len(pictures(output / "other"))
        assert 0 < there < len(pictures(output / "trial"))
        assert not list(output.glob("other/*.json"))
        again = measure(sd15, filename_prefix="other/own")
        sampled = len(calls)
        measure(sd15, filename_prefix="other/own")
        assert len(calls) == sampled
    finally:
        handle.remove()
    for one, other in zip(whole[1:3], again[1:3], strict=True):
        assert one == other
    assert torch.equal(whole[0], again[0])
    one, other = (trial_to_json(load_trial(output / found[3])) for found in (whole, again))
    assert one == other


@pytest.mark.newest
def test_more_minutes_use_the_pictures_that_are_there(sd15, output):
    measure(sd15)
    before = {path: path.stat().st_mtime_ns for path in pictures(output)}
    _, _, _, file, _ = measure(sd15, minutes=1.5 * FEWEST_MINUTES)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(pictures(output)) > len(before)
    assert load_trial(output / file).counted_seeds == (4, 8)


@pytest.mark.newest
def test_other_settings_have_pictures_of_their_own(sd15, output):
    """A number beside the tokens of a prompt counts too."""
    measure(sd15)
    folders = {path.parent for path in pictures(output)}
    measure(sd15, cfg=4.5)
    assert len({path.parent for path in pictures(output)}) == len(folders) + 1
    ((tokens, extra),) = sd15.conditioning("cond")
    count = len(pictures(output))
    measure(sd15, positive=[[tokens, {**extra, "guidance": 2.5}]])
    assert len(pictures(output)) == count + FEWEST


@pytest.mark.newest
@pytest.mark.parametrize("changed", ["positive", "negative", "clip", "version", "machine", "object", "batch", "file"])
def test_pictures_made_otherwise_are_not_taken_for_the_present_ones(sd15, output, monkeypatch, changed):
    """A ControlNet cannot be read, so what is upstream of a conditioning counts, and that it is there."""
    negative = sd15.conditioning("uncond")
    negative[0][1]["control"] = object()

    file = output / "own.safetensors"
    file.write_bytes(b"weights")
    monkeypatch.setitem(importlib.import_module("folder_paths").folder_names_and_paths, "own", ([str(output)], set()))
    monkeypatch.setattr(shelf, "texts_upstream", lambda name: {"a fox", file.name} if name == "model" else {"", "../x"})

    def folder(at_once=4):
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        checkpoint = Checkpoint(sd15.model, None, latent, negative, 1, 7.0, "euler", "normal", at_once)
        return shelf.shelf_of(checkpoint, output).folder

    before = folder()
    assert folder() == before
    if changed == "batch":
        assert folder(at_once=2) != before
        return
    if changed == "file":
        file.write_bytes(b"others")
    elif changed == "object":
        negative[0][1]["control"] = 1j
    elif changed in ("version", "machine"):
        name = {"version": "pack_version", "machine": "machine_of"}[changed]
        monkeypatch.setattr(shelf, name, lambda *given: "another", raising=False)
    else:
        monkeypatch.setattr(shelf, "digest_of_input", lambda name: "another" if name == changed else "")
    assert folder() != before


def test_the_version_of_the_pack_is_that_of_its_project_file():
    assert f'version = "{shelf.pack_version()}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_what_is_loaded_encoded_and_compiled_is_in_no_picture(sd15, output, monkeypatch, now):
    """The model has to be loaded again after a text or pictures were encoded, and the first step of a way compiles."""
    is_away, ready = [True], set()

    class TextsTakeTheMemory(Clip):
        def encode_from_tokens_scheduled(self, text):
            is_away[0] = True
            now[0] += 50
            return super().encode_from_tokens_scheduled(text)

    def embed(images):
        is_away[0] = True
        return PIXELS.embed(images)

    sample_rows = Checkpoint._sample

    def sample(checkpoint, way, *given, **options):
        now[0] += 100 * is_away[0] + 30 * (way not in ready)
        is_away[0] = False
        ready.add(way)
        return sample_rows(checkpoint, way, *given, **options)

    monkeypatch.setattr(measure_checkpoint, "PIXELS", replace(PIXELS, embed=embed))
    monkeypatch.setattr(Checkpoint, "_sample", sample)
    clip = TextsTakeTheMemory(sd15)
    _, _, summary, file, _ = measure(sd15, clip=clip, positive=None, prompts="a\nb", minutes=1.5 * FEWEST_MINUTES)
    trial = load_trial(output / file)
    assert trial.counted_seeds == (4, 8)
    assert {each.seconds for each in (*trial.choice, *trial.report, *trial.costs)} == {1.0}
    assert summary.count(" 1.00 times as long (") == 5
    assert now[0] > 500


@pytest.mark.newest
def test_pictures_are_sampled_in_the_same_batches_whatever_is_there(sd15, output, monkeypatch):
    """A kill between two files leaves half a batch, whose other half is not sampled by itself."""
    measure(sd15, images_at_once=64)
    kept = {path: path.read_bytes() for path in pictures(output)}
    for path in pictures(output)[::3]:
        path.unlink()
    sizes, sample = [], Checkpoint._sample
    monkeypatch.setattr(
        Checkpoint,
        "_sample",
        lambda checkpoint, way, positive, seeds, *given, **options: (
            sizes.append(len(seeds)) or sample(checkpoint, way, positive, seeds, *given, **options)
        ),
    )
    measure(sd15, images_at_once=64)
    assert set(sizes) == {4}
    assert {path: path.read_bytes() for path in pictures(output)} == kept


@pytest.mark.newest
def test_the_names_of_files_upstream_are_found_in_every_value(monkeypatch):
    nodes = {
        "lora": {"class_type": "Loras", "inputs": {"model": ["load", 0], "lora_1": {"on": True, "lora": "b.pt"}}},
        "load": {"class_type": "Loader", "inputs": {"name": "a.safetensors", "list": ["c.pt"]}},
        "other": {"class_type": "Loader", "inputs": {"name": "d.safetensors"}},
        "measure": {"class_type": "Measure", "inputs": {"model": ["lora", 0], "name": "e"}},
    }
    monkeypatch.setattr(run_origin, "_executing", lambda: (DynamicPrompt(nodes), "measure", None))
    assert run_origin.texts_upstream("model") == {"a.safetensors", "b.pt", "c.pt"}
    assert run_origin.texts_upstream("vae") == set()


@pytest.mark.newest
def test_pictures_that_get_slower_leave_the_rivals_out(sd15, output, monkeypatch):
    now = [0.0]

    def tick():
        now[0] += 1.0 if now[0] < 16 else 2.0
        return now[0]

    monkeypatch.setattr(picture_source, "clock", tick)
    _, _, summary, file, _ = measure(sd15, images_at_once=1)
    trial = load_trial(output / file)
    assert [each.way for each in trial.report] == [PLAIN, trial.best.way]
    assert '"no guidance in the first fifth" and "temporal score rescaling 0.95" are left out' in summary


@pytest.mark.newest
def test_seeds_of_choice_and_report_are_others(sd15, output):
    measure(sd15, first_seed=7)
    seeds = {int(path.stem.rpartition("_")[2]) for path in pictures(output)}
    assert seeds == {*range(7, 11), *range(7 + MOST_SEEDS, 11 + MOST_SEEDS)}


def test_where_memory_runs_out_fewer_pictures_are_sampled_at_once(sd15, output, monkeypatch):
    def network(executor, x, *args, **kwargs):
        if len(x) > 2:  # one picture, its two prompts
            raise torch.OutOfMemoryError("out of memory")
        return executor(x, *args, **kwargs)

    small = sd15.model.clone()
    small.add_wrapper("apply_model", network)
    monkeypatch.setattr(live_rows, "is_out_of_memory", lambda error: isinstance(error, torch.OutOfMemoryError))
    _, _, summary, file, _ = measure(sd15, small, images_at_once=64)
    assert "Memory ran out with 4 images at once, so at most 1 were sampled at once." in summary
    assert load_trial(output / file).notes[-1].startswith("Memory ran out")


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (
            {"minutes": 0.1},
            "minutes is 0.1, which is only enough for 5 images of 1 s, but a trial needs 20. Set minutes to 1",
        ),
        ({"positive": None}, "Nothing says what to draw: wire clip for the prompts, or positive for one prompt"),
        ({"negative": None}, "The negative prompt is missing: wire negative, or clip for an empty one"),
        ({"sampler_name": "dpm_adaptive"}, "Choose another sampler"),
        ({"filename_prefix": "../out"}, "filename_prefix"),
        (
            {"latent_image": {"samples": torch.zeros(2, 4, 16, 16)}},
            "latent_image holds 2 images, but a trial draws its own seeds. Set batch_size to 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(sd15, output, inputs, sentence):
    with pytest.raises(ValueError, match=sentence):
        measure(sd15, **inputs)
    assert not list(output.rglob("*.json"))


def test_a_trial_without_a_slider_says_why_in_words_of_a_trial():
    """It has no sweep and no batch_size that could be changed."""
    trial = made_up_trial(4)
    short = [each if index else replace(each, row=replace(each.row, n=2)) for index, each in enumerate(trial.choice)]
    for given, largest_drift, sentence in (
        (
            replace(trial, choice=tuple(short)),
            1.0,
            r"^For every γ, a calibration needs 3 or more images that contain no NaN. There are fewer at γ = 1\.$",
        ),
        (
            trial,
            1e-6,
            r"^Every γ except 1 moved .* largest_drift 1e-06\. The smallest move was .*\. Raise largest_drift\.$",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            calibration_of(given, PIXELS, largest_drift)


def test_the_node_says_what_it_begins_with_and_why_a_budget_is_too_small(sd15, output, monkeypatch):
    told = []
    monkeypatch.setattr(
        measure_checkpoint, "show_on_node", lambda text, node_id: told.append((text, len(pictures(output))))
    )
    with pytest.raises(ValueError, match="is only enough for") as refusal:
        measure(sd15, minutes=0.1)
    (begun, before), (why, _) = told
    assert begun.startswith("The first 4 seeds are sampled at γ 1 and 2 other settings of γ.")
    assert before == 0
    assert why == str(refusal.value)


def test_a_model_that_gamma_cannot_act_on_is_refused_at_once(sd15, output, monkeypatch):
    monkeypatch.setattr(Course, "run", lambda run: pytest.fail("it was sampled"))
    patched, _ = skew(sd15.model, gamma=1.5)
    with pytest.raises(ValueError, match=r"The MODEL went through Skew Attention \(SAD\), but Measure Your Checkpoint"):
        measure(sd15, patched)
    network = torch.nn.Module.__new__(host_class(REFUSED["Stable_Cascade_C"]))
    torch.nn.Module.__init__(network)
    settings = comfy.supported_models.Stable_Cascade_C
    refused = SimpleNamespace(
        model=SimpleNamespace(diffusion_model=network, model_config=settings.__new__(settings)),
        object_patches={},
        object_patches_backup={},
    )
    with pytest.raises(ValueError, match=r"Measure Your Checkpoint \(SAD\) cannot work on .*, because "):
        measure(sd15, refused)


def test_a_flow_without_guidance_leaves_one_rival_out_and_says_so(sd3, output):
    _, _, summary, file, _ = measure(sd3, cfg=1.0, clip_vision=tiny_clip_vision())
    trial = load_trial(output / file)
    assert [each.way for each in trial.report[2:]] == [RIVALS[1]]
    assert '"no guidance in the first fifth" is not compared, because at CFG 1 there is no' in summary
    assert "Agreement with the prompt was not measured, because" in summary
    assert trial.space.startswith("image embeddings of the CLIP vision model")


class Clip:
    """In place of a CLIP: a conditioning for each text."""

    def __init__(self, family):
        self.family, self.texts = family, []

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        self.texts.append(text)
        return self.family.conditioning(text)


@pytest.mark.newest
def test_prompts_are_encoded_once_and_told_only_where_asked(sd15, output):
    clip = Clip(sd15)
    given = {"positive": None, "negative": None, "clip": clip, "prompts": "a fox\n\n a house \na fox"}
    _, _, _, file, _ = measure(sd15, **given, minutes=1.5 * FEWEST_MINUTES, tell_prompts=True)
    assert sorted(clip.texts) == ["", "a fox", "a house"]
    assert load_trial(output / file).sampling.texts == ("a fox", "a house")
    _, _, _, file, _ = measure(sd15, **given, minutes=1.5 * FEWEST_MINUTES)
    told = json.loads((output / file).read_text())["sampling"]
    assert (told["texts"], told["prompts"], told["packaged"]) == ([], 2, False)


@pytest.mark.newest
def test_a_picture_with_nan_is_counted_and_left_out(sd15, output, monkeypatch):
    class Broken(Decoder):
        def decode(self, latent):
            self.decoded = getattr(self, "decoded", 0) + 1
            return super().decode(latent) * (math.nan if self.decoded == 2 else 1.0)  # the first one warms up

    _, _, _, file, _ = measure(sd15, vae=Broken())
    trial = load_trial(output / file)
    assert [each.row.broken for each in trial.choice] == [1, *[0] * len(SHORT)]
    assert trial.choice[1].row["distance_change"].exists


@pytest.mark.newest
def test_what_the_node_saves_is_read_whatever_was_given_and_drawn(sd15, output):
    """No picture of one γ is whole, the prompts are too many and too long, and the name has what no table takes."""

    class Broken(Decoder):
        def decode(self, latent):
            there = len(pictures(output))
            return super().decode(latent) * (math.nan if 6 < there < 12 or there > 15 else 1.0)

    prompts = "\n".join(["long " * 1000, *map(str, range(1200))])
    given = {"positive": None, "clip": Clip(sd15), "prompts": prompts, "tell_prompts": True}
    _, table, summary, file, _ = measure(sd15, vae=Broken(), name="a\x07\n`b`" + "c" * 3000, images_at_once=1, **given)
    trial = load_trial(output / file)
    assert min(each.row.n for each in (*trial.choice, *trial.report)) == 0
    assert trial.name.startswith("a\N{REPLACEMENT CHARACTER} b ccc")
    assert list(map(len, trial.sampling.texts)) == [2000]  # the one that was used
    assert trial.sampling.prompts == 1
    assert summary
    assert table


# --- the rivals


def test_without_guidance_the_first_steps_compute_one_prompt(sd15):
    """Half of four steps with CFG 1, and the rest as they were."""
    rows = []
    handle = sd15.model.model.diffusion_model.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    try:
        sd15.sample(without_early_guidance(sd15.model, 0.5), steps=4, cfg=5.0)
    finally:
        handle.remove()
    assert sum(rows) == 2 * 1 + 2 * 2
    assert rows[:2] == [1, 1]


@pytest.mark.parametrize("family", ["sd15", "sd3"])
def test_the_rescaled_score_takes_the_noise_larger_or_smaller(family, request):
    """Against equation 6 in float64, for a noise level of each row."""
    model = with_rescaled_score(request.getfixturevalue(family).model, 0.9)
    (rescaled,) = model.model_options["sampler_post_cfg_function"]
    x, denoised = torch.randn(3, 4, 5, 5, dtype=torch.float64), torch.randn(3, 4, 5, 5, dtype=torch.float64)
    sigma = torch.tensor([0.3, 0.8, 1.0], dtype=torch.float64)
    got = rescaled({"input": x, "denoised": denoised, "sigma": sigma})
    for row, level in enumerate(sigma.tolist()):
        alpha = 1 - level if family == "sd3" else 1.0
        if alpha == 0:
            assert torch.equal(got[row], denoised[row])
            continue
        ratio = (alpha / level) ** 2
        factor = (ratio + 1) / (ratio / 0.9 + 1)
        noise = (x[row] - alpha * denoised[row]) / level
        torch.testing.assert_close(got[row], (x[row] - factor * level * noise) / alpha, rtol=1e-5, atol=1e-5)


def test_a_prompt_longer_than_a_name_of_a_file_names_none(tmp_path, monkeypatch):
    monkeypatch.setattr(named_files.folder_paths, "get_input_directory", lambda: str(tmp_path))
    (tmp_path / "photo.png").write_bytes(b"1234")
    states = named_files.states_of(["photo.png", "a fox " * 60, "a/" * 400, "../beyond"])
    assert [(name, size) for name, size, _ in states] == [("photo.png", 4)]
