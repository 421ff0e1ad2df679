"""The nodes of the pack, a file for a node or a pair; each turns widgets into calls of the rooms below."""

from __future__ import annotations

try:
    from comfy_api.latest import ComfyExtension, io
except ImportError as error:
    raise ImportError("Symmetric Attention (SAD) needs ComfyUI 0.19.0 or newer; please update ComfyUI.") from error

from .diversity_report import DiversityReportNode
from .gamma_schedule import GammaScheduleNode
from .gamma_schedule_preview import preview
from .gamma_sweep import GammaGridNode, GammaSweepNode
from .host.browser import serve
from .host.live_chart import charts
from .load_stability_trace import LoadStabilityTraceNode
from .report import ReportNode
from .save_stability_trace import SaveStabilityTraceNode
from .skew_attention import SkewAttentionNode
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
]


class SymmetricAttentionExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def on_load(self) -> None:
        """Opens the doors that the scripts in web/ knock at."""
        serve("/symmetric_attention/stability", charts.of_workflow)
        serve("/symmetric_attention/gamma_curve", preview)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    """ComfyUI's door into the pack."""
    return SymmetricAttentionExtension()
