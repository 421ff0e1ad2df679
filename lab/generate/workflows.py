"""Writes workflows/*.json, by building the graphs in a real ComfyUI in a real browser.

    python -m lab.generate.workflows [NAME ...]        all of them, or those that are named

The graphs are described below: columns of nodes, from left to right and from top to bottom. Each is run once, with the
demo model, and laid out for the size that its nodes then have, with their charts and the longest texts. ComfyUI has no
place for a title or a sentence on a template of a pack: it shows the name of the file, which therefore says what the
graph does, and a number puts it into order. The pictures are made by lab/generate/template_cards.py. Needs a ComfyUI
(see lab/testing/hosts.py), Debian's chromium, and the packages of the tests.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.demo.comfyui_server import PACKS, ComfyUIServer
from lab.folders import ROOT
from lab.generate.template_cards import SEED, STEPS
from lab.testing.checkpoint_substitutes import FIXTURES, with_stand_ins
from lab.testing.editor import FLAGS, RENDERERS, find_chromium, open_page, render
from lab.testing.editor_graphs import LONGEST_TEXTS, queue_as_page
from lab.testing.hosts import find_host

FOLDER = ROOT / "workflows"
CORE_VERSION = "0.33.0"
EXAMPLE = "example.png"  # in the input folder of every ComfyUI


@dataclass(frozen=True)
class Node:
    """One node of a workflow.

    Attributes:
        name: how the links of this file call it.
        type: the id of its class.
        values: of its widgets, by name.
        links: what its inputs are wired to, as `node.output`.
        size: width and height; a width of 0 is the column's, a height of 0 the node's own.
        model: name, folder and address of the model file a loader asks for, as ComfyUI's own templates give them.
    """

    name: str
    type: str
    values: dict[str, Any] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    title: str = ""
    size: tuple[int, int] = (0, 0)
    model: tuple[str, str, str] | None = None

    @property
    def properties(self) -> dict[str, Any]:
        """Return the pack and version that provide the node, so that ComfyUI-Manager finds it if it is missing."""
        if self.type == "MarkdownNote":
            return {}
        if self.type.startswith("SAD"):
            from tomllib import loads

            project = loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            pack = {"cnr_id": project["name"], "ver": project["version"]}
        else:
            pack = {"cnr_id": "comfy-core", "ver": CORE_VERSION}
        if self.model is not None:
            name, directory, url = self.model
            pack["models"] = [{"name": name, "url": url, "directory": directory}]
        return {"Node name for S&R": self.type, **pack}


def note(text: str, height: int = 110) -> Node:
    """A few words on what to turn and what to expect."""
    return Node("note", "MarkdownNote", {"": text}, title="What to turn", size=(0, height))


HUGGING_FACE = "https://huggingface.co"
FOX = "a red fox reading a newspaper in a cafe, photograph"
SDXL = (
    "sd_xl_base_1.0.safetensors",
    "checkpoints",
    f"{HUGGING_FACE}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
)
SD15 = (
    "v1-5-pruned-emaonly-fp16.safetensors",
    "checkpoints",
    f"{HUGGING_FACE}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
)
CLIP_VISION_G = (
    "clip_vision_g.safetensors",
    "clip_vision",
    f"{HUGGING_FACE}/comfyanonymous/clip_vision_g/resolve/main/clip_vision_g.safetensors",
)
Z_IMAGE = f"{HUGGING_FACE}/Comfy-Org/z_image_turbo/resolve/main/split_files"
STABLE_AUDIO = (
    "stable-audio-open-1.0.safetensors",
    "checkpoints",
    f"{HUGGING_FACE}/Comfy-Org/stable-audio-open-1.0_repackaged/resolve/main/stable-audio-open-1.0.safetensors",
)
T5 = (
    "t5-base.safetensors",
    "text_encoders",
    f"{HUGGING_FACE}/ComfyUI-Wiki/t5-base/resolve/main/t5-base.safetensors",
)
TURBO: dict[str, Any] = {"steps": 8, "cfg": 1.0, "sampler_name": "res_multistep", "scheduler": "simple"}
DEMO_TEXTS = ("load.positive", "load.negative")
DEMO_STEPS: dict[str, Any] = {"steps": 20, "cfg": 2.0, "scheduler": "simple"}
OF_THE_CARD = {**DEMO_STEPS, "seed": SEED, "steps": STEPS}  # so the first template draws the images of its card


def checkpoint(model: tuple[str, str, str]) -> Node:
    return Node("load", "CheckpointLoaderSimple", {"ckpt_name": model[0]}, model=model)


def z_image() -> list[Node]:
    """The three loaders of Z-Image Turbo."""
    model, text, vae = "z_image_turbo_bf16.safetensors", "qwen_3_4b.safetensors", "ae.safetensors"
    return [
        Node(
            "load",
            "UNETLoader",
            {"unet_name": model},
            model=(model, "diffusion_models", f"{Z_IMAGE}/diffusion_models/{model}"),
        ),
        Node(
            "clip",
            "CLIPLoader",
            {"clip_name": text, "type": "lumina2"},
            model=(text, "text_encoders", f"{Z_IMAGE}/text_encoders/{text}"),
        ),
        Node("vae", "VAELoader", {"vae_name": vae}, model=(vae, "vae", f"{Z_IMAGE}/vae/{vae}")),
    ]


def z_image_texts(count: int) -> list[Node]:
    """The prompt of Z-Image Turbo, which samples without a negative one, and what else its samplers take."""
    return [
        Node("positive", "CLIPTextEncode", {"text": FOX}, {"clip": "clip.CLIP"}, size=(0, 140)),
        Node("negative", "ConditioningZeroOut", {}, {"conditioning": "positive.CONDITIONING"}),
        latent(1024, count, "EmptySD3LatentImage"),
        z_image_shift(),
    ]


def z_image_shift() -> Node:
    return Node("shift", "ModelSamplingAuraFlow", {"shift": 3.0}, {"model": "load.MODEL"})


def texts(positive: str, negative: str, clip: str = "load.CLIP") -> list[Node]:
    return [
        Node("positive", "CLIPTextEncode", {"text": positive}, {"clip": clip}, size=(0, 130)),
        Node("negative", "CLIPTextEncode", {"text": negative}, {"clip": clip}, size=(0, 110)),
    ]


def latent(side: int, count: int = 1, kind: str = "EmptyLatentImage") -> Node:
    return Node("latent", kind, {"width": side, "height": side, "batch_size": count})


def sampler(
    model: str,
    name: str = "sampler",
    source: str = "latent.LATENT",
    title: str = "",
    seed_from: str = "",
    conditions: tuple[str, str] = ("positive.CONDITIONING", "negative.CONDITIONING"),
    **values: Any,
) -> Node:
    """A KSampler with a fixed or a wired seed, so that two runs differ only in γ."""
    values = {
        "control_after_generate": "fixed",
        "seed": 1,
        "steps": 25,
        "cfg": 6.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    } | values
    links = {"model": model, "positive": conditions[0], "negative": conditions[1]}
    if seed_from:
        links["seed"] = seed_from
    return Node(name, "KSampler", values, links | {"latent_image": source}, title)


def decoded(name: str = "decode", samples: str = "sampler.LATENT", vae: str = "load.VAE") -> Node:
    return Node(name, "VAEDecode", {}, {"samples": samples, "vae": vae})


def enlarged(name: str, images: str) -> Node:
    """The pixels of the demo model's pictures, large enough to be seen."""
    widgets = {"upscale_method": "nearest-exact", "width": 256, "height": 256, "crop": "disabled"}
    return Node(name, "ImageScale", widgets, {"image": images})


def saved(prefix: str, images: str = "decode.IMAGE", name: str = "save", **options: Any) -> Node:
    options = {"size": (0, 280), **options}
    return Node(name, "SaveImage", {"filename_prefix": prefix}, {"images": images}, **options)


def shown(name: str, images: str, title: str, height: int = 260) -> Node:
    return Node(name, "PreviewImage", {}, {"images": images}, title, (0, height))


def text_shown(name: str, source: str, title: str, height: int = 180) -> Node:
    return Node(name, "PreviewAny", {}, {"source": source}, title, (0, height))


def best_of(**values: Any) -> list[list[Node]]:
    """The columns between the loaders and the images of a graph with Best Of Sampler, chosen by a probe."""
    return [
        [
            Node("skew", "SADSkewAttention", {"gamma": 1.2, "beta": 1.0}, {"model": "load.MODEL"}),
            Node("probe", "SADStabilityProbe", {}, {"model": "skew.MODEL"}),
        ],
        [
            Node("noise", "RandomNoise", {"noise_seed": 1, "control_after_generate": "fixed"}),
            Node(
                "guider",
                "CFGGuider",
                {"cfg": 6.0},
                {"model": "probe.MODEL", "positive": "positive.CONDITIONING", "negative": "negative.CONDITIONING"},
            ),
            Node("chosen", "KSamplerSelect", {"sampler_name": "dpmpp_2m"}),
            Node("steps", "BasicScheduler", {"scheduler": "karras", "steps": 25}, {"model": "load.MODEL"}),
        ],
        [
            Node(
                "best",
                "SADBestOfSampler",
                values,
                {
                    "noise": "noise.NOISE",
                    "guider": "guider.GUIDER",
                    "sampler": "chosen.SAMPLER",
                    "sigmas": "steps.SIGMAS",
                    "latent_image": "latent.LATENT",
                },
            ),
            decoded(samples="best.latent"),
        ],
    ]


WORKFLOWS: dict[str, list[list[Node]]] = {
    "01_start_here_without_a_checkpoint": [
        [
            Node("load", "SADDemoModel", {"picture": "smileys", "count": 4}),
            note(
                "Press *Run* to draw the same four seeds twice, with the unpatched model and with **gamma**. Then turn "
                "gamma on Skew Attention. At 1 both rows are equal, bit for bit. **picture** chooses what is drawn.\n\n"
                "If the file of the demo model is missing, the node says where to get it (10 MB). If you have a "
                "checkpoint, open template 03.",
                170,
            ),
        ],
        [
            Node("skew", "SADSkewAttention", {"gamma": 2.0, "beta": 1.0}, {"model": "load.model"}),
        ],
        [
            sampler("load.model", "plain", "load.latent", "The unpatched model", conditions=DEMO_TEXTS, **OF_THE_CARD),
            sampler("skew.MODEL", "sampler", "load.latent", "With gamma", conditions=DEMO_TEXTS, **OF_THE_CARD),
        ],
        [
            decoded("decode_plain", "plain.LATENT", "load.vae"),
            decoded(vae="load.vae"),
        ],
        [
            enlarged("large_plain", "decode_plain.IMAGE"),
            enlarged("large", "decode.IMAGE"),
        ],
        [
            shown("without", "large_plain.IMAGE", "The unpatched model", 330),
            shown("with", "large.IMAGE", "With gamma", 330),
        ],
    ],
    "02_compare_gamma_with_the_plain_model": [
        [
            checkpoint(SDXL),
            *texts(FOX, "blurry, low quality"),
            latent(1024),
            note(
                "One press of *Run* samples the same seed twice, with the unpatched model and with **gamma**. Drag the "
                "slider of *Image Compare* to see what changed. It is drawn only in Nodes 2.0. In the classic "
                "rendering, look at the two images beside it.\n\nFor a quick look, set the latent to 768 and "
                "**steps** to 10 in both samplers.",
                165,
            ),
        ],
        [
            Node("skew", "SADSkewAttention", {"gamma": 1.5, "beta": 1.0}, {"model": "load.MODEL"}),
        ],
        [
            sampler("load.MODEL", "plain", title="The unpatched model"),
            sampler("skew.MODEL", title="With gamma"),
        ],
        [
            decoded("decode_plain", "plain.LATENT"),
            shown("without", "decode_plain.IMAGE", "The unpatched model", 300),
            decoded(),
            shown("with", "decode.IMAGE", "With gamma", 300),
        ],
        [
            Node(
                "compare",
                "ImageCompare",
                {},
                {"image_a": "decode_plain.IMAGE", "image_b": "decode.IMAGE"},
                size=(0, 460),
            ),
        ],
    ],
    "03_turn_gamma_with_a_schedule": [
        [
            checkpoint(SDXL),
            *texts(FOX, "blurry, low quality"),
            latent(1024),
            note(
                "Turn **start_gamma** of the schedule. 1 is your model, bit for bit. Values above 1 strengthen the "
                "skew part of attention, values below 1 weaken it. Keep the seed fixed and compare 1.2 with 1.5 and "
                "0.8. **beta** 1 applies exactly gamma. While a schedule is wired, the gamma on Skew Attention is not "
                "used.\n\nThe schedule acts in the first 60 % of the run, which usually decides the composition. The "
                "text on Skew Attention says what really happened.",
                190,
            ),
        ],
        [
            Node("skew", "SADSkewAttention", {"beta": 1.0}, {"model": "load.MODEL", "schedule": "schedule.schedule"}),
            Node("schedule", "SADGammaSchedule", {"shape": "window", "start_gamma": 1.2, "end": 0.6}),
        ],
        [
            sampler("skew.MODEL"),
            decoded(),
            Node("report", "SADReport", {}, {"report": "skew.report", "after": "sampler.LATENT"}),
            shown("curve", "schedule.picture", "The schedule"),
        ],
        [saved("skew_attention", size=(0, 440)), text_shown("told", "report.text", "What really happened", 220)],
    ],
    "04_five_gammas_in_one_picture": [
        [
            checkpoint(SDXL),
            *texts(FOX, "blurry, low quality"),
            latent(1024, 2),
            note(
                "One press of *Run* samples once for every gamma in **values**. Keep 1 among them. It is the unpatched "
                "model, and the others are compared with it. The grid has a row for each gamma and a column for each "
                "seed.\n\n**moved** is how far an image is from that of gamma 1, **apart** is how much the images of "
                "a row differ. Both compare pixels, not content. Five gammas take five times as long.",
                175,
            ),
        ],
        [
            Node("sweep", "SADGammaSweep", {"values": "0.5, 0.8, 1, 1.2, 1.5"}),
            Node("skew", "SADSkewAttention", {"beta": 1.0}, {"model": "load.MODEL", "gamma": "sweep.gamma"}),
        ],
        [sampler("skew.MODEL"), decoded()],
        [
            Node("grid", "SADGammaGrid", {}, {"images": "decode.IMAGE", "gamma": "sweep.gamma"}),
            saved("gamma_sweep", "grid.grid", size=(0, 420)),
            text_shown("table", "grid.table", "The same numbers as CSV"),
        ],
    ],
    "05_measure_diversity_over_gammas": [
        [
            checkpoint(SDXL),
            *texts(FOX, "blurry, low quality"),
            latent(1024, 2),
            Node("vision", "CLIPVisionLoader", {"clip_name": CLIP_VISION_G[0]}, model=CLIP_VISION_G),
            note(
                "Does diversity increase with gamma on **your** checkpoint, and what does it cost? Every gamma gets "
                "the same seeds, **batch_size** times **seeds** of them, here eight. With fewer, only large "
                "differences show. Five gammas make 40 images.\n\nThe plot shows diversity against drift from gamma 1. "
                "Bars are 95 % intervals. A broken image can be very diverse, so look at the grid too. The result "
                "holds for this prompt, so try a second one. Any CLIP vision model works, but "
                "agreement with the prompt needs bigG for SDXL.",
                215,
            ),
        ],
        [
            Node("sweep", "SADGammaSweep", {"values": "0.5, 0.8, 1, 1.2, 1.5", "seeds": 4, "first_seed": 1}),
            Node("skew", "SADSkewAttention", {"beta": 1.0}, {"model": "load.MODEL", "gamma": "sweep.gamma"}),
            sampler("skew.MODEL", seed_from="sweep.seed"),
            decoded(),
        ],
        [
            Node(
                "measured",
                "SADDiversityReport",
                {},
                {
                    "images": "decode.IMAGE",
                    "gamma": "sweep.gamma",
                    "clip_vision": "vision.CLIP_VISION",
                    "conditioning": "positive.CONDITIONING",
                },
            ),
            text_shown("summary", "measured.summary", "In words", 260),
            text_shown("table", "measured.table", "Every number as CSV", 160),
            Node("grid", "SADGammaGrid", {}, {"images": "decode.IMAGE", "gamma": "sweep.gamma"}),
        ],
        [
            saved("diversity_report", "measured.plot", title="Diversity against drift", size=(0, 420)),
            saved("gamma_sweep", "grid.grid", "save_grid", title="Look at them too", size=(0, 320)),
        ],
    ],
    "06_see_the_schedule_and_the_stability": [
        [
            checkpoint(SDXL),
            *texts(FOX, "blurry, low quality"),
            latent(1024),
            note(
                "**Gamma Schedule** draws the curve with your real steps as dots. Change **shape** and **end** to see "
                "where the steps fall.\n\n**Stability Plot** shows every attention site at every step. Where "
                "retrieval is stable, energy and instability are low and alignment is high. The probe changes no bit "
                "of the image. To see what gamma changed, keep the trace of a run at gamma 1 with Save Stability "
                "Trace, load it into **compare_with** and choose layout *difference*.",
                165,
            ),
        ],
        [
            Node(
                "schedule",
                "SADGammaSchedule",
                {"shape": "cosine", "start_gamma": 1.3, "end_gamma": 1.0, "end": 0.7},
                {"model": "load.MODEL", "sigmas": "steps.SIGMAS"},
            ),
            Node("skew", "SADSkewAttention", {"beta": 1.0}, {"model": "load.MODEL", "schedule": "schedule.schedule"}),
        ],
        [
            Node("probe", "SADStabilityProbe", {}, {"model": "skew.MODEL"}),
            Node("steps", "BasicScheduler", {"scheduler": "normal", "steps": 25}, {"model": "load.MODEL"}),
            Node("euler", "KSamplerSelect", {"sampler_name": "euler"}),
            Node(
                "sampler",
                "SamplerCustom",
                {"noise_seed": 1, "control_after_generate": "fixed", "cfg": 6.0},
                {
                    "model": "probe.MODEL",
                    "positive": "positive.CONDITIONING",
                    "negative": "negative.CONDITIONING",
                    "sampler": "euler.SAMPLER",
                    "sigmas": "steps.SIGMAS",
                    "latent_image": "latent.LATENT",
                },
            ),
            decoded(samples="sampler.output"),
        ],
        [
            saved("schedule_and_stability"),
            Node(
                "plot",
                "SADStabilityPlot",
                {"layout": "heat map"},
                {"trace": "probe.trace", "after": "sampler.output"},
            ),
            text_shown("summary", "plot.summary", "Every run in words"),
        ],
        [
            shown("curve", "schedule.picture", "The schedule and the real steps", 300),
            shown("stability", "plot.picture", "Stability, site by step", 420),
        ],
    ],
    "07_let_gamma_follow_stability": [
        [
            checkpoint(SDXL),
            *texts(FOX, "blurry, low quality"),
            latent(1024, 2),
            note(
                "**Stability Feedback** lets gamma follow the stability of each image, step by step. **gain** 0 gives "
                "the image of Skew Attention. Higher values move gamma further. **direction** is where gamma goes when "
                "an image is less stable than in its first steps. **fall_back** above 0 sets gamma to 1 for the rest "
                "of the run if an image becomes far less stable.\n\nThe chart on the node and the plot show gamma by "
                "step and image.",
                175,
            ),
        ],
        [
            Node("skew", "SADSkewAttention", {"gamma": 1.2, "beta": 1.0}, {"model": "load.MODEL"}),
            Node("feedback", "SADStabilityFeedback", {"gain": 0.1, "dead_band": 0.0}, {"model": "skew.MODEL"}),
        ],
        [
            sampler("feedback.MODEL"),
            decoded(),
            Node("report", "SADReport", {}, {"report": "skew.report", "after": "sampler.LATENT"}),
            Node(
                "plot",
                "SADStabilityPlot",
                {"layout": "curves"},
                {"trace": "feedback.trace", "after": "sampler.LATENT"},
            ),
        ],
        [
            saved("stability_feedback", size=(0, 300)),
            shown("stability", "plot.picture", "The measure that gamma follows, and gamma", 260),
            text_shown("told", "report.text", "What really happened"),
        ],
    ],
    "08_finish_the_best_of_eight_seeds": [
        [
            checkpoint(SDXL),
            *texts(FOX, "blurry, low quality"),
            latent(1024),
            note(
                "The node starts eight seeds. After 30 % of the steps it keeps the more stable half, and finishes the "
                "two of that half that differ most. That costs less than four images, and each is the image that its "
                "seed gives by itself.\n\n**choose** can also use only stability or only differences, which needs no "
                "probe. Nobody has measured whether the more stable seeds look better on your model. To compare, set "
                "**keep** to 8.",
                185,
            ),
        ],
        *best_of(choose="stable and different", candidates=8, keep=2, decide_at=0.3),
        [
            saved("best_of_n", size=(0, 420)),
            text_shown("summary", "best.summary", "The kept images, and the cost", 150),
            text_shown("table", "best.table", "Every candidate as CSV", 200),
        ],
    ],
    "09_try_seeds_until_one_is_stable": [
        [
            checkpoint(SDXL),
            *texts(FOX, "blurry, low quality"),
            latent(1024),
            note(
                "The node starts one seed at a time, until the stability of one after 30 % of the steps reaches "
                "**threshold**, at most **max_tries** times. It finishes only that seed. If none reaches the "
                "threshold, it finishes the best one, and the summary says so.\n\nThe usual scores depend on the "
                "model and the prompt. Set the threshold very high once, and read them in the table.",
                175,
            ),
        ],
        *best_of(choose="most stable", candidates=1, keep=1, decide_at=0.3, max_tries=4, threshold=0.1),
        [
            saved("gate", size=(0, 420)),
            text_shown("summary", "best.summary", "The result of the gate", 150),
            text_shown("table", "best.table", "Every try as CSV", 160),
        ],
    ],
    "10_compare_adaptive_with_static_gamma": [
        [
            checkpoint(SDXL),
            *texts(FOX, "blurry, low quality"),
            latent(1024),
            note(
                "This draws the same seed three times: with the unpatched model, with a strong gamma, and with the "
                "same gamma and **adaptive**, which weights it by how symmetric each layer's attention is, separately "
                "for each image.\n\nRaise gamma or beta on both nodes until the static image breaks, and see whether "
                'the adaptive one holds. Then compare "gamma" with "gamma and beta".',
                170,
            ),
        ],
        [
            Node("static", "SADSkewAttention", {"gamma": 1.2, "beta": 3.0}, {"model": "load.MODEL"}, "Static"),
            Node(
                "adaptive",
                "SADSkewAttention",
                {"gamma": 1.2, "beta": 3.0, "adaptive": "gamma and beta"},
                {"model": "load.MODEL"},
                "Adaptive",
            ),
        ],
        [
            sampler("load.MODEL", "plain", title="Unpatched model"),
            sampler("static.MODEL", "with_static", title="Static"),
            sampler("adaptive.MODEL", "with_adaptive", title="Adaptive"),
        ],
        [
            decoded("plain_image", "plain.LATENT"),
            decoded("static_image", "with_static.LATENT"),
            decoded("adaptive_image", "with_adaptive.LATENT"),
        ],
        [
            saved("plain", "plain_image.IMAGE", "save_plain", title="Unpatched model"),
            saved("static", "static_image.IMAGE", "save_static", title="Static"),
            saved("adaptive", "adaptive_image.IMAGE", "save_adaptive", title="Adaptive"),
        ],
    ],
    "11_image_to_image_in_two_passes": [
        [
            checkpoint(SD15),
            *texts("an oil painting of a lighthouse in a storm, thick brush strokes", "blurry, low quality"),
            note(
                "Both passes use one schedule. It follows the noise level, not the step count, so the first pass "
                "(denoise 0.75) enters it at about 25 %, the second (0.45) at about 55 %.\n\nTo change only the first "
                "pass, end the window at 0.5. To change mostly the second, start it at 0.6.\n\nPut an image of yours "
                "into **Load Image**. Until you do, it uses the example.png in ComfyUI's input folder.",
                185,
            ),
        ],
        [
            Node("picture", "LoadImage", {"image": EXAMPLE}, size=(0, 320)),
            Node(
                "scaled",
                "ImageScale",
                {"upscale_method": "lanczos", "width": 512, "height": 512, "crop": "center"},
                {"image": "picture.IMAGE"},
            ),
            Node("encoded", "VAEEncode", {}, {"pixels": "scaled.IMAGE", "vae": "load.VAE"}),
        ],
        [
            Node("skew", "SADSkewAttention", {"beta": 1.0}, {"model": "load.MODEL", "schedule": "schedule.schedule"}),
            Node("schedule", "SADGammaSchedule", {"shape": "window", "start_gamma": 1.2, "end": 0.8}),
        ],
        [
            sampler("skew.MODEL", source="encoded.LATENT", denoise=0.75, cfg=7.0, title="First pass"),
            Node(
                "larger",
                "LatentUpscaleBy",
                {"upscale_method": "nearest-exact", "scale_by": 1.5},
                {"samples": "sampler.LATENT"},
            ),
            sampler("skew.MODEL", "second", "larger.LATENT", "Second pass", denoise=0.45, cfg=7.0, seed=2),
        ],
        [decoded(samples="second.LATENT"), saved("img2img_two_pass", size=(0, 440))],
    ],
    "12_z_image_turbo_four_seeds": [
        [
            *z_image(),
            note(
                "In this model text and image share one sequence. **gamma** acts only among the image tokens. The "
                "attention scores of the text stay unchanged. The text refiner changes only if **blocks** names it."
                "\n\nThe batch shows four seeds at once. Run it at gamma 1, then at 1.2 and 0.8 with beta 1, and see "
                "how much the four differ. The effect of gamma on this model has not been measured.",
                175,
            ),
        ],
        z_image_texts(4),
        [
            Node("skew", "SADSkewAttention", {"gamma": 1.2, "beta": 1.0}, {"model": "shift.MODEL"}),
            Node("report", "SADReport", {}, {"report": "skew.report", "after": "sampler.LATENT"}),
        ],
        [
            sampler("skew.MODEL", **TURBO),
            decoded(vae="vae.VAE"),
        ],
        [saved("z_image_turbo", size=(0, 400)), text_shown("told", "report.text", "What really happened")],
    ],
    "13_stable_audio": [
        [
            checkpoint(STABLE_AUDIO),
            Node(
                "clip",
                "CLIPLoader",
                {"clip_name": "t5-base.safetensors", "type": "stable_audio"},
                model=T5,
            ),
            note(
                "**gamma** acts among the audio tokens. 1 is the unpatched model. Compare 0.5, 1 and 1.5 with beta 1 "
                "and the same seed, and listen.\n\nACE-Step 1 is not supported. The node stops with a message that "
                "says why. The effect of gamma on audio has not been measured.",
            ),
        ],
        [
            *texts("slow piano over rain on a window, warm, close", "", "clip.CLIP"),
            Node("latent", "EmptyLatentAudio", {"seconds": 20.0, "batch_size": 1}),
        ],
        [
            Node("skew", "SADSkewAttention", {"gamma": 1.5, "beta": 1.0}, {"model": "load.MODEL"}),
            Node("report", "SADReport", {}, {"report": "skew.report", "after": "sampler.LATENT"}),
        ],
        [
            sampler("skew.MODEL", steps=50, cfg=5.0, sampler_name="dpmpp_3m_sde", scheduler="exponential"),
            Node("decode", "VAEDecodeAudio", {}, {"samples": "sampler.LATENT", "vae": "load.VAE"}),
        ],
        [
            Node("play", "PreviewAudio", {}, {"audio": "decode.AUDIO"}),
            text_shown("told", "report.text", "What really happened", 220),
        ],
    ],
    "14_calibrate_a_slider": [
        [
            checkpoint(SDXL),
            *texts(FOX, "blurry, low quality"),
            latent(1024, 2),
            note(
                "One press of *Run* samples four gammas with eight seeds each, **batch_size** times **seeds**, and "
                "makes a calibration for the slider of **Creativity**. There 0 is the unpatched model, 1 is the most "
                "diverse gamma whose images stay within **largest_drift**, and -1 is the least diverse.\n\nThen "
                "refresh the node definitions (R), choose the saved calibration in **Creativity** and run again. Until "
                "then Creativity uses its default range and says so. The calibration is for this checkpoint. For other "
                "prompts, look whether it holds.",
                190,
            ),
        ],
        [
            Node("sweep", "SADGammaSweep", {"values": "0.8, 1, 1.2, 1.5", "seeds": 4, "first_seed": 1}),
            Node("skew", "SADSkewAttention", {"beta": 1.0}, {"model": "load.MODEL", "gamma": "sweep.gamma"}),
            sampler("skew.MODEL", seed_from="sweep.seed"),
            decoded(),
        ],
        [
            Node(
                "calibrate",
                "SADCalibrate",
                {"largest_drift": 0.3},
                {"images": "decode.IMAGE", "gamma": "sweep.gamma", "model": "skew.MODEL"},
            ),
            text_shown("measured", "calibrate.summary", "The two ends of the slider", 220),
        ],
        [
            Node(
                "creativity",
                "SADCreativity",
                {"position": 1.0},
                {"model": "load.MODEL"},
            ),
            text_shown("meant", "creativity.text", "The meaning of the position", 160),
            sampler("creativity.MODEL", "creative", title="With the slider"),
            decoded("decode_creative", "creative.LATENT"),
        ],
        [saved("creativity", "decode_creative.IMAGE", size=(0, 420))],
    ],
    "15_do_the_seeds_of_a_turbo_model_differ": [
        [
            *z_image(),
            note(
                "Do your seeds look alike? Models with few steps are known for it. One press of *Run* draws the same "
                "eight seeds, **batch_size** times **seeds**, at three gammas, and measures how far apart the images "
                "of each gamma lie.\n\nOn our small distilled model no gamma raised the diversity, measured as "
                "coverage. Large ones **have not been measured**. This graph measures it for your model and your "
                "prompt. Trust a change only if its interval excludes 0, and after a second prompt. To use another "
                "model, replace the "
                "loaders, steps and cfg.",
                215,
            ),
        ],
        z_image_texts(4),
        [
            Node("sweep", "SADGammaSweep", {"values": "1, 1.2, 1.5", "seeds": 2, "first_seed": 1}),
            Node("skew", "SADSkewAttention", {"beta": 1.0}, {"model": "shift.MODEL", "gamma": "sweep.gamma"}),
            sampler("skew.MODEL", seed_from="sweep.seed", **TURBO),
            decoded(vae="vae.VAE"),
        ],
        [
            Node("measured", "SADDiversityReport", {}, {"images": "decode.IMAGE", "gamma": "sweep.gamma"}),
            text_shown("summary", "measured.summary", "In words", 260),
            Node("grid", "SADGammaGrid", {}, {"images": "decode.IMAGE", "gamma": "sweep.gamma"}),
        ],
        [
            saved("seeds_of_a_turbo_model", "grid.grid", title="The same seeds at each gamma", size=(0, 420)),
            shown("plot", "measured.plot", "Diversity against drift", 420),
        ],
    ],
    "16_measure_your_checkpoint": [
        [
            checkpoint(SDXL),
            latent(1024),
            note(
                "Replace this loader with that of your checkpoint, of any family, and set **steps**, **cfg**, "
                "**sampler_name**, **scheduler** and the size as you use them, with cfg 1 for a turbo model. Then "
                "press *Run*. It takes the **minutes** that you allow.\n\nThe node chooses a gamma on some seeds and "
                "reports it on others. You can cancel it, and the next run goes on. Look at the sheet before you trust "
                "the table. The file of numbers holds no prompt and no image. If you send it in, it becomes a row of "
                "docs/checkpoints.md.",
                260,
            ),
        ],
        [
            Node(
                "measure",
                "SADMeasureCheckpoint",
                {"minutes": 15.0, "steps": 25, "cfg": 6.0},
                {"model": "load.MODEL", "clip": "load.CLIP", "vae": "load.VAE", "latent_image": "latent.LATENT"},
            ),
        ],
        [
            saved("trial/sheet", "measure.sheet", size=(620, 320)),
            text_shown("found", "measure.summary", "The significant changes, and the cost", 320),
        ],
    ],
    "17_measure_your_z_image_or_flux": [
        [
            *z_image(),
            note(
                "The same trial for a model whose parts are three files. It is set for Z-Image Turbo: 8 steps, and "
                "**cfg** 1, so the method that switches guidance off is left out. Press *Run* and wait for "
                "**minutes**.\n\n**Flux**: replace *Load CLIP* by *DualCLIPLoader*, wire *Load Diffusion Model* "
                "straight into the node, and set **steps** to 20, **sampler_name** to euler. Any other model: its "
                "loaders, its shift and its settings.\n\nWhat gamma is worth on these models has not been measured. "
                "If you send in the file of numbers, it becomes a row of docs/checkpoints.md.",
                215,
            ),
        ],
        [
            z_image_shift(),
            latent(1024, kind="EmptySD3LatentImage"),
        ],
        [
            Node(
                "measure",
                "SADMeasureCheckpoint",
                {"minutes": 15.0, **TURBO},
                {"model": "shift.MODEL", "clip": "clip.CLIP", "vae": "vae.VAE", "latent_image": "latent.LATENT"},
            ),
        ],
        [
            saved("trial/sheet", "measure.sheet", size=(620, 320)),
            text_shown("found", "measure.summary", "What is significant, and what it costs", 320),
        ],
    ],
}

SCALE, SCREEN, CORNER = 0.8, 1440, 120  # of the editor's view: at most, and in pixels; no title lies below a button
COLUMN_WIDTH, GAP_ACROSS, GAP_DOWN, TITLE_HEIGHT = 310, 50, 24, 44

BUILD = """
([columns, width, across, offset]) => {
    const graph = window.app.graph;
    graph.clear();
    graph.last_node_id = offset;  // the editor keeps the values of a widget by its node's id
    graph.id = '00000000-0000-0000-0000-000000000000';
    const made = {};
    columns.forEach((column, index) => {
        for (const wanted of column) {
            const node = LiteGraph.createNode(wanted.type);
            if (!node) throw new Error(`there is no node ${wanted.type}`);
            graph.add(node);
            made[wanted.name] = node;
            node.properties = {...node.properties, ...wanted.properties};
            if (wanted.title) node.title = wanted.title;
            for (const [name, value] of Object.entries(wanted.values)) {
                const widget = name ? node.widgets.find(each => each.name === name) : node.widgets[0];
                if (!widget) throw new Error(`${wanted.type} has no widget ${name}`);
                widget.value = value;
            }
        }
    });
    for (const wanted of columns.flat())
        for (const [input, source] of Object.entries(wanted.links)) {
            const [from, output] = source.split('.');
            const slot = made[from].outputs.findIndex(each => each.name === output);
            const place = made[wanted.name].inputs.findIndex(each => each.name === input);
            if (slot < 0 || place < 0 || !made[from].connect(slot, made[wanted.name], place))
                throw new Error(`cannot wire ${source} to ${wanted.name}.${input}`);
        }
    columns.forEach((column, index) => {
        column.forEach((wanted, row) => {
            const node = made[wanted.name];
            node.setSize([wanted.size[0] || width, wanted.size[1] || node.computeSize()[1]]);
            node.pos = [index * (width + across), row * 800];
        });
    });
    const ids = columns.map(column => column.map(wanted => made[wanted.name].id));
    graph.setDirtyCanvas(true, true);
    return [JSON.stringify(graph.serialize()), ids];
}
"""
# The height of every node by its id, in the units of the graph, as it is drawn now.
HEIGHTS = """
() => Object.fromEntries(window.app.graph._nodes.map(node => {
    const drawn = document.querySelector(`.lg-node[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    const height = drawn ? drawn.height / window.app.canvas.ds.scale - LiteGraph.NODE_TITLE_HEIGHT : node.size[1];
    return [node.id, height];
}))
"""
# The editor's own furniture is put away; the corners of the graph tell where the picture is cut.
SHOW = """
([left, top]) => {
    const style = document.createElement('style');
    style.textContent = '.side-bar-panel, .graph-canvas-panel, .splitter-overlay, [class*="minimap"],'
        + ' .comfyui-body-top, .comfyui-body-bottom, .p-toast { visibility: hidden !important }';
    document.head.append(style);
    const canvas = window.app.canvas;
    canvas.ds.scale = 1;
    canvas.ds.offset = [left, top];
    canvas.deselectAll();
    canvas.setDirty(true, true);
    const nodes = window.app.graph._nodes;
    return [Math.max(...nodes.map(n => n.pos[0] + n.size[0])), Math.max(...nodes.map(n => n.pos[1] + n.size[1]))];
}
"""


def main() -> int:
    from playwright.sync_api import sync_playwright

    names = sys.argv[1:] or list(WORKFLOWS)
    chromium, host = find_chromium(), find_host()
    if host is None or chromium is None:
        sys.exit("No ComfyUI or no chromium on this machine; both are needed.")
    with ComfyUIServer(host, sys.executable, packs={**PACKS, **FIXTURES}) as server, sync_playwright() as playwright:
        put_empty_models(server.output.parent)
        shutil.copy(host / "input" / EXAMPLE, server.output.parent / "input")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        server.post("/settings", {"Comfy.TutorialCompleted": True})  # no greeting over the graph
        page = open_page(browser, server, 2000, 1500)
        for number, name in enumerate(names, 1):
            graph = laid_out(page, server, WORKFLOWS[name], 1000 * number)
            text = json.dumps(graph, indent=2, ensure_ascii=False) + "\n"
            (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
            print(name, flush=True)
        browser.close()
    return 0


def laid_out(page: Any, server: ComfyUIServer, columns: list[list[Node]], offset: int) -> dict[str, Any]:
    """A graph as the editor saves it, its nodes placed below each other by the size that they have after a run.

    While it is built its ids begin after `offset`, which no other graph of the page may have used.
    """
    render(page, "classic")
    described = [[{**vars(node), "properties": node.properties} for node in column] for column in columns]
    saved_text, ids = page.evaluate(BUILD, [described, COLUMN_WIDTH, GAP_ACROSS, offset])
    prompt = json.loads(page.evaluate("async () => JSON.stringify((await window.app.graphToPrompt()).output)"))
    queue_as_page(page, server, with_stand_ins(prompt, seed=1))
    tallest: dict[str, float] = {}
    for renderer in RENDERERS:
        render(page, renderer)
        page.wait_for_timeout(6000)  # texts, charts and pictures arrive, and the editor draws when it likes
        page.evaluate(LONGEST_TEXTS)
        page.wait_for_timeout(1000)
        for node_id, height in page.evaluate(HEIGHTS).items():
            tallest[node_id] = max(height, tallest.get(node_id, 0.0))
    graph: dict[str, Any] = json.loads(saved_text)
    places = {}
    for column, rows in enumerate(ids):
        top = 0
        for node_id in rows:
            places[str(node_id)] = [column * (COLUMN_WIDTH + GAP_ACROSS), top]
            top += round(tallest[str(node_id)]) + TITLE_HEIGHT + GAP_DOWN
    for node in graph["nodes"]:
        node["pos"] = places[str(node["id"])]
        node["id"] -= offset
    for link in graph["links"]:
        link[1], link[3] = link[1] - offset, link[3] - offset
    graph["last_node_id"] -= offset
    graph["extra"]["ds"] = view_of(len(columns))
    return graph


def view_of(columns: int) -> dict[str, Any]:
    """The part of a graph that the editor shows first: all its columns."""
    scale = min(SCALE, round(SCREEN / (columns * (COLUMN_WIDTH + GAP_ACROSS)), 2))
    return {"scale": scale, "offset": [round(CORNER / scale)] * 2}


def put_empty_models(base: Path) -> None:
    """Empty files in the place of every model, so that the editor finds their names in its lists."""
    for node in (node for columns in WORKFLOWS.values() for column in columns for node in column):
        if node.model is not None:
            name, directory, _ = node.model
            (base / "models" / directory).mkdir(parents=True, exist_ok=True)
            (base / "models" / directory / name).touch()


if __name__ == "__main__":
    sys.exit(main())
