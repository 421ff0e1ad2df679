"""The node that patches a model: Skew Attention (SAD)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..sad_core import NORMS, GammaSchedule
from .host.apply import install_skew_attention
from .host.browser import show_on_node
from .host.painted import PaintedMask
from .host.settings import ADAPTIVE_MODES, APPLY_TO, SkewSettings
from .shared import (
    CATEGORY,
    GOAL_ALIASES,
    SEARCH_ALIASES,
    Report,
    Schedule,
    gamma_widget,
    progress_widget,
    unverified_widget,
)


class SkewAttentionNode(io.ComfyNode):
    """MODEL in, MODEL with the skew part of its self-attention scaled by γ out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Widgets, sockets and what they mean."""
        return io.Schema(
            node_id="SADSkewAttention",
            display_name="Skew Attention (SAD)",
            category=CATEGORY,
            description=(
                "Scales the skew-symmetric part of self-attention by gamma, on the checkpoint you already have and "
                "without training. Gamma 1 is the unpatched model, bit for bit and at no cost. The effect is "
                "deterministic and needs no seed."
            ),
            search_aliases=[*SEARCH_ALIASES, *GOAL_ALIASES],
            not_idempotent=True,  # the patch knows the id of its node, so no other node may get it from the cache
            inputs=[
                io.Model.Input("model"),
                gamma_widget(
                    "gamma",
                    default=1.05,
                    tooltip=(
                        "The strength of the skew part of attention. 1 leaves the model unchanged. Values above 1 "
                        "strengthen the skew part, values below 1 weaken it. 0 keeps only the symmetric part. -1 "
                        "swaps queries and keys. The further from 1, the more the image changes. Not used while a "
                        "schedule is connected."
                    ),
                ),
                io.Float.Input(
                    "beta",
                    default=3.0,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    round=0.01,
                    tooltip=(
                        "How far to go along the change that gamma makes. 1 gives attention with exactly this gamma. "
                        "Values above 1 exaggerate the change. The magnitude of each token's output stays about the "
                        "same as at beta 1 (see norm). 0 switches the node off."
                    ),
                ),
                io.Combo.Input(
                    "adaptive",
                    options=list(ADAPTIVE_MODES),
                    default="off",
                    optional=True,
                    tooltip=(
                        "Weights the strength by how symmetric each layer's attention is, separately for each image. "
                        '"gamma" moves gamma towards 1 where attention is less symmetric. Where the skew part is '
                        "larger than the symmetric one, a gamma above 1 becomes one below 1, and the reverse. "
                        '"gamma and beta" also lowers beta where attention is symmetric. Try it when a strong setting '
                        "breaks some images."
                    ),
                ),
                io.Combo.Input(
                    "norm",
                    options=list(NORMS),
                    default="value",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "How the node keeps the magnitude of each token's output about the same as at beta 1. "
                        '"value" takes it from the values (cheap, on every model). "projected" comes close to "input" '
                        '(a little slower than "value"). "input" takes it from the input of the attention, as in '
                        'the method\'s paper (slowest). "none" does not correct it, so a large beta can overshoot.'
                    ),
                ),
                io.String.Input(
                    "blocks",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "The attention sites to change. Empty means all except the text refiners that some models "
                        "have. Write addresses (input.4.1, joint.3, double.7), prefixes (input, output.5), ranges "
                        "(double.0-9) or groups (self, joint, text refiner; in LTX-AV also video, audio), separated "
                        "by commas. Two nodes on different blocks can have different gammas. After a wrong entry the "
                        "node lists the valid ones."
                    ),
                ),
                progress_widget(
                    "start_percent",
                    default=0.0,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Where in the run the effect starts, from 0 (pure noise) to 1 (finished image). A later start "
                        "usually keeps more of the composition."
                    ),
                ),
                progress_widget(
                    "end_percent",
                    default=1.0,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Where in the run the effect ends, from 0 (pure noise) to 1 (finished image). An earlier end "
                        "usually keeps more fine detail."
                    ),
                ),
                io.Combo.Input(
                    "apply_to",
                    options=list(APPLY_TO),
                    default="both",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Change the conditional pass, the unconditional pass or both. With only one of them, "
                        "classifier-free guidance amplifies the difference, so use smaller strengths."
                    ),
                ),
                Schedule.Input(
                    "schedule",
                    optional=True,
                    tooltip="A Gamma Schedule (SAD). It gives gamma for each step and replaces the gamma widget.",
                ),
                gamma_widget(
                    "gamma_text",
                    default=1.0,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "A separate gamma among the text tokens, for models with text and image in one sequence "
                        "(SD3, Flux, Qwen-Image, Z-Image, HunyuanVideo, …). All tokens that do not belong to the image "
                        "count as text. 1 leaves their attention scores unchanged. Beta, start_percent, end_percent "
                        "and apply_to affect it too. The schedule and adaptive change only gamma. On other models "
                        "(SD1.5, SDXL, Wan, …) it does nothing, and the plan says so."
                    ),
                ),
                gamma_widget(
                    "gamma_cross",
                    default=1.0,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "A separate gamma between text and image tokens, for the same models as gamma_text. It scales "
                        "the difference between the attention scores from image to text and those from text to image. "
                        "1 leaves both unchanged. It can change how the image follows the prompt."
                    ),
                ),
                unverified_widget(
                    tooltip=(
                        "Also act where this pack cannot verify that queries and keys are the same tokens. That is so "
                        "in a model it does not know, and where another node changes queries and keys in an unknown "
                        "way (attn1_patch), for example to attend to another frame. When off, those calls stay "
                        "unchanged, and the report counts them."
                    )
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "The area of the image where gamma acts: fully where the mask is 1, not at all where it is "
                        "0, partly in between. The mask may have any size. A batch of masks is applied image by "
                        "image. The unpainted area changes too (on the demo model 62 % as much, or 47 % with a soft "
                        "edge), because later layers mix the whole image. For images, not for videos or sound."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The patched model, for the sampler."),
                io.String.Output("plan", display_name="plan", tooltip="The chosen sites and the planned settings."),
                Report.Output(
                    "report", display_name="report", tooltip="Wire it to Report (SAD) to read what really happened."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        gamma: float,
        beta: float,
        adaptive: str = "off",
        norm: str = "value",
        blocks: str = "",
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        apply_to: str = "both",
        schedule: GammaSchedule | None = None,
        gamma_text: float = 1.0,
        gamma_cross: float = 1.0,
        act_where_unverified: bool = False,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        """Return a patched clone of `model`, the plan in words and the report handle."""
        gamma_schedule = GammaSchedule.from_preset("constant", gamma) if schedule is None else schedule
        painted = None if mask is None else PaintedMask.of(mask)
        settings = SkewSettings(
            gamma_schedule,
            beta=beta,
            adaptive=adaptive,
            norm=norm,
            start=start_percent,
            end=end_percent,
            apply_to=apply_to,
            gamma_text=gamma_text,
            gamma_cross=gamma_cross,
            act_where_unverified=act_where_unverified,
            mask=None if painted is None or painted.is_full else painted,
        )
        patched, report = install_skew_attention(model, settings, blocks, cls.hidden.unique_id)
        if report.neutral:  # no run will show a report, and that of an earlier run must not stay on the node
            show_on_node(report.plan, cls.hidden.unique_id)
        return io.NodeOutput(patched, report.plan, report)
