"""The nodes of the pack, one file for each; a node turns its widgets into calls of host, plots and sad_core."""

from __future__ import annotations

try:
    from comfy_api.latest import ComfyExtension, io
except ImportError as error:
    raise ImportError("Symmetric Attention (SAD) needs ComfyUI 0.19.0 or newer. Please update ComfyUI.") from error

from .best_of_sampler import BestOfSamplerNode
from .calibrate import CalibrateNode
from .creativity import CreativityNode
from .demo_model import DemoModelNode
from .diversity_report import DiversityReportNode
from .gamma_grid import GammaGridNode
from .gamma_schedule import GammaScheduleNode
from .gamma_schedule_preview import preview
from .gamma_sweep import GammaSweepNode
from .host.browser import nodes_of_prompt, serve
from .host.live_chart import charts
from .load_stability_baseline import LoadStabilityBaselineNode
from .load_stability_trace import LoadStabilityTraceNode
from .measure_checkpoint import MeasureCheckpointNode
from .report import ReportNode
from .save_stability_baseline import SaveStabilityBaselineNode
from .save_stability_trace import SaveStabilityTraceNode
from .skew_attention import SkewAttentionNode
from .stability_baseline import StabilityBaselineNode
from .stability_feedback import StabilityFeedbackNode
from .stability_plot import StabilityPlotNode
from .stability_probe import StabilityProbeNode

NODES: list[type[io.ComfyNode]] = [
    SkewAttentionNode,
    GammaScheduleNode,
    ReportNode,
    GammaSweepNode,
    GammaGridNode,
    StabilityProbeNode,
    StabilityPlotNode,
    SaveStabilityTraceNode,
    LoadStabilityTraceNode,
    DiversityReportNode,
    StabilityBaselineNode,
    SaveStabilityBaselineNode,
    LoadStabilityBaselineNode,
    StabilityFeedbackNode,
    BestOfSamplerNode,
    CalibrateNode,
    CreativityNode,
    DemoModelNode,
    MeasureCheckpointNode,
]


class SymmetricAttentionExtension(ComfyExtension):
    """The extension that ComfyUI loads."""

    async def on_load(self) -> None:
        """Serve the routes that the scripts in web/ request."""
        serve("/symmetric_attention/stability", charts.of_workflow)
        serve("/symmetric_attention/gamma_curve", preview)
        serve("/symmetric_attention/prompt", nodes_of_prompt)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return all nodes of the pack."""
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    """Return the extension; ComfyUI calls this when it loads the pack."""
    return SymmetricAttentionExtension()
