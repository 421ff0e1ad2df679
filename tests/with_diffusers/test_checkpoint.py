"""A trial of a tiny pipeline of diffusers with random weights, by the code that ComfyUI's node runs."""

from __future__ import annotations

import string
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers import DDIMScheduler, StableDiffusionPipeline

from lab import checkpoint
from lab.checkpoint import PipelineSource, measure, network_of, save
from lab.evidence import add
from lab.testing.diffusers_models import TEXT, normal, unet
from sad_core import set_skew_attention
from sad_core.evaluation.trial.result_file import load_trial
from sad_core.evaluation.trial.ways import LADDER, PLAIN
from sad_core.evaluation.trial.words import summary_of

STEPS, WINDOW = 3, LADDER[-1]  # a third of three steps
LETTERS = string.ascii_lowercase


@pytest.fixture(scope="module")
def pipeline() -> Any:
    torch.manual_seed(2)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    shape: dict[str, Any] = {"latent_channels": 4, "block_out_channels": (8, 16), "norm_num_groups": 4}
    vae = diffusers.AutoencoderKL(**blocks, **shape)
    parts = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor", "image_encoder"))
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    made = StableDiffusionPipeline(vae=vae, unet=unet(), scheduler=scheduler, requires_safety_checker=False, **parts)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory) -> Any:
    """The folder of a pipeline with a text encoder, as `python -m lab.checkpoint` is given one."""
    words = ["<|startoftext|>", "<|endoftext|>", *(f"{letter}{end}" for end in ("", "</w>") for letter in LETTERS)]
    text = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TEXT,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    torch.manual_seed(3)
    whole = StableDiffusionPipeline(
        **{
            **pipeline.components,
            "text_encoder": transformers.CLIPTextModel(text),
            "tokenizer": transformers.CLIPTokenizer(
                vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=TEXT
            ),
        },
        requires_safety_checker=False,
    )
    found = tmp_path_factory.mktemp("pipeline")
    whole.save_pretrained(found)
    return found


def source_of(pipeline: Any) -> PipelineSource:
    def prompt(number: int, count: int) -> dict[str, Any]:
        positive, negative = (normal(1, TEXT, 16, seed=seed).repeat(count, 1, 1) for seed in (5 + number, 1))
        return {"prompt_embeds": positive, "negative_prompt_embeds": negative}

    return PipelineSource(pipeline, prompt, STEPS, {"guidance_scale": 4.0, "height": 16, "width": 16})


def test_a_trial_of_a_pipeline_is_believed(pipeline, tmp_path, monkeypatch):
    """Every picture takes a second by its clock, so most_seeds ends it."""
    seconds = iter(range(10**6))
    monkeypatch.setattr(checkpoint, "clock", lambda: 4 * next(seconds))
    source, said = source_of(pipeline), []
    trial, sheet = measure(source, ["a", "b"], 10, most_seeds=4, name="tiny", ladder=LADDER[2:], tell=said.append)
    found = load_trial(save(trial, sheet, tmp_path))
    assert (found.model, found.name, found.machine) == ("UNet2DConditionModel", "tiny", "CPU")
    assert [each.way for each in found.choice] == [PLAIN, *LADDER[2:]]
    assert [each.way.name for each in found.report] == [PLAIN.name, found.chosen]
    assert [each.name for each in found.costs] == [f"{found.chosen} with β 0.5"]
    assert {each.seconds for each in (*found.choice, *found.report, *found.costs)} == {1.0}
    assert len(found.weights) == 16
    assert checkpoint.LEFT_OUT in summary_of(found)
    assert said[0].startswith(
        "An image takes 1 s. First, 4 seeds of each of 4 settings are sampled, to choose a γ. Then 4 other seeds of "
    )
    assert (tmp_path / "own.sheet.jpg").stat().st_size > 1000
    assert not any("forward" in vars(module) for module in pipeline.unet.modules())


def test_a_folder_is_measured_from_the_command_line_to_the_page(folder, tmp_path, capsys):
    """With its own text encoder and prompts: a trial and a sheet, which become a row and a picture."""
    (tmp_path / "mine.txt").write_text("a fox\n\nhens\n", encoding="utf-8")
    given = [str(folder), "--steps", "3", "--cfg", "2.5", "--minutes", "60", "--most-seeds", "4", "--name", "tiny"]
    given += ["--prompts", str(tmp_path / "mine.txt"), "--output", str(tmp_path / "results")]
    assert checkpoint.main(given) == 0
    said = capsys.readouterr().out
    assert "First, 4 seeds of each of 6 settings are sampled, to choose a γ. Then 4 other seeds of each of 2" in said
    assert "Last, 4 images are sampled only to time other settings." in said
    path, sheet = tmp_path / "results" / "own.trial.json", tmp_path / "results" / "own.sheet.jpg"
    assert said.endswith(f"Saved as {path}, with its sheet beside it.\n")
    trial = load_trial(path)
    assert [each.way for each in trial.choice] == [PLAIN, *LADDER]
    assert trial.counted_seeds == (4, 4)
    assert (trial.sampling.cfg, trial.sampling.sampler, trial.sampling.prompts) == (2.5, "DDIMScheduler", 1)
    assert (trial.sampling.width, trial.sampling.height, trial.sampling.packaged) == (16, 16, False)
    assert trial.best.row["pixel_drift"].low > 0
    kept = add.add(path, sheet, tmp_path, tmp_path)
    assert load_trial(kept) == trial


def test_memory_that_runs_out_is_said_with_what_helps(folder, monkeypatch, capsys):
    def full(*given: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", full)
    assert checkpoint.main([str(folder), "--at-once", "2"]) == 1
    assert "Memory ran out with 2 images at once. Set --at-once lower." in capsys.readouterr().err


def test_its_pictures_are_those_of_the_pipeline_with_gamma(pipeline):
    """Of a seed by itself; a window acts in the first of three steps, which a hand-made run has too."""
    source = source_of(pipeline)

    def by_hand(way: Any, seed: int) -> Any:
        set_skew_attention(pipeline.unet, way.gamma, 1.0)

        def plain_again(*given: Any) -> dict[str, Any]:
            if way.end < 1:
                set_skew_attention(pipeline.unet, 1.0)
            return {}

        images = pipeline(
            **source.prompt(1, 1),
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            callback_on_step_end=plain_again,
            **source.options,
        ).images
        set_skew_attention(pipeline.unet, 1.0)
        return images[0].movedim(0, -1)

    pictures = {}
    for way in (PLAIN, LADDER[3], WINDOW):
        drawn = source.draw(way, 1, range(7, 11))
        pictures[way] = drawn[2].image
        torch.testing.assert_close(drawn[2].image, by_hand(way, 9).clamp(0, 1), rtol=0, atol=0.51 / 255)
    assert not torch.equal(pictures[PLAIN], pictures[WINDOW])
    assert not torch.equal(pictures[LADDER[3]], pictures[WINDOW])


def test_what_has_no_network_and_what_is_no_folder_is_refused(capsys, tmp_path):
    with pytest.raises(ValueError, match="object has no unet and no transformer, so γ has nothing to act on"):
        network_of(object())
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SystemExit):
            checkpoint.main([str(folder)])
        assert f"{folder} has no model_index.json. Give the folder of a saved" in capsys.readouterr().err
