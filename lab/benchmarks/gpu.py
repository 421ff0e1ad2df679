"""Measure the cost of the pack on a graphics card: attention, whole sampling steps, memory, and the better kernel.

    python -m lab.benchmarks.gpu --comfyui ~/ComfyUI                 # on a card, 4 minutes
    python -m lab.benchmarks.gpu --comfyui ~/ComfyUI --tiny          # on the CPU, to see that it runs

It prints the tables of docs/speed.md and writes all numbers as one JSON file. With `--write` it puts the tables into
docs/speed.md and the quicker way for each head dim and mode of this card into the table of the fused kernel.

Attention is device time over captured CUDA graphs, so that the launches of Python do not count. Steps are wall time.
Everything that is compared is timed in turn. Only torch and a ComfyUI folder are needed.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lab.benchmarks.sampling_step import MODELS as UNETS
from lab.benchmarks.timing import Work
from lab.folders import ROOT, expand_path
from lab.testing.in_process_host import load_pack, start_host
from sad_core import adapt, average, hopfield_stability, skew_attention, symmetricity
from sad_core.kernels import choice
from sad_core.kernels.call import FusedCall
from sad_core.kernels.eligibility import import_error
from sad_core.kernels.operation import launch

GAMMA, BETA = 1.05, 3.0
THREE = ("energy", "instability", "alignment")
SECONDS = 240  # what the whole may take
BEGIN, END = "<!-- On a card: written by make benchmark-gpu. -->", "<!-- End of what is written. -->"
SPEED = ROOT / "docs" / "speed.md"


@dataclass(frozen=True)
class Shape:
    """One attention call of a model: samples, heads, tokens, head dim."""

    model: str
    batch: int
    heads: int
    tokens: int
    head_dim: int

    def __str__(self) -> str:
        return f"{self.model} {self.batch} {self.heads} {self.tokens} {self.head_dim}"


SHAPES = (
    Shape("SD1.5", 2, 8, 4096, 40),
    Shape("SD1.5", 2, 8, 1024, 80),
    Shape("SD1.5", 2, 8, 256, 160),
    Shape("SDXL", 2, 10, 4096, 64),
    Shape("SDXL", 2, 20, 1024, 64),
    Shape("SD3.5", 2, 38, 4250, 64),
    Shape("Flux", 1, 24, 4608, 128),
    Shape("Z-Image", 1, 30, 4256, 128),
    Shape("Wan", 1, 40, 14040, 128),
)
TINY_SHAPES = (Shape("tiny", 2, 2, 48, 40), Shape("tiny", 1, 2, 65, 64))
FLUX: dict[str, Any] = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "hidden_size": 3072,
    "num_heads": 24,
    "mlp_ratio": 4.0,
    "depth": 4,
    "depth_single_blocks": 8,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "guidance_embed": True,
    "qkv_bias": True,
    "patch_size": 2,
    "txt_ids_dims": [],
}
TINY_FLUX = {
    **FLUX,
    "hidden_size": 64,
    "num_heads": 2,
    "depth": 1,
    "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12],
    "vec_in_dim": 32,
    "context_in_dim": 48,
}
TINY_UNET: dict[str, Any] = {
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 48,
}
MODES: dict[str, dict[str, Any]] = {
    "γ = 1": {"gamma": 1.0},
    "γ": {"gamma": GAMMA},
    "γ and β": {"gamma": GAMMA, "beta": BETA},
    "adaptive γ and β": {"gamma": GAMMA, "beta": BETA, "adaptive": "gamma and beta"},
}
GOALS = {
    "γ = 1": 1.0,
    "γ": 1.1,
    "γ and β": 1.18,
    "adaptive γ and β": 1.22,
    "probe": 1.15,
    "probe, depth and curvature": 1.5,
    "compiled, γ": 1.15,
}


class Clock:
    """Medians of device or wall time, each thing in turn."""

    def __init__(self, device: torch.device, rounds: int):
        self.device = device
        self.rounds = rounds
        self.on_card = device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        if self.on_card:
            torch.cuda.synchronize(self.device)

    def device_times(self, ways: Mapping[str, Work]) -> dict[str, float]:
        """Seconds on the device of each way that runs at all; over captured graphs on a card."""
        replays: dict[str, tuple[Work, int]] = {}
        for name, work in ways.items():
            with suppress(RuntimeError, NotImplementedError):  # not every kernel takes every head dim
                work()
                replays[name] = self._captured(work)
        return {name: seconds / replays[name][1] for name, seconds in self._timed(replays).items()}

    def _timed(self, replays: Mapping[str, tuple[Work, int]]) -> dict[str, float]:
        taken: dict[str, list[float]] = {name: [] for name in replays}
        for number in range(self.rounds):
            for name, (work, _) in reversed(list(replays.items())) if number % 2 else replays.items():
                taken[name].append(self._once(work))
        return {name: median(seconds) for name, seconds in taken.items()}

    def _once(self, work: Work) -> float:
        if not self.on_card:
            started = time.perf_counter()
            work()
            return time.perf_counter() - started
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        seconds: float = begin.elapsed_time(end) / 1000
        return seconds

    def _captured(self, work: Work) -> tuple[Work, int]:
        """Return a function that replays captured calls of `work`, and their number. Without capture, `work` and 1."""
        if not self.on_card:
            return work, 1
        estimate = min(self._once(work) for _ in range(3))
        count = max(1, min(20, int(0.004 / max(estimate, 1e-6))))
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                for _ in range(count):
                    work()
        except RuntimeError:  # it waits for the device
            self.wait()
            return work, 1
        return graph.replay, count

    def wall_times(self, ways: Mapping[str, Work], most: float) -> dict[str, float]:
        """Seconds of wall time of each way; one that takes longer than `most` is timed once."""
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for work in ways.values():
            work()
        for number in range(self.rounds):
            for name, work in reversed(list(ways.items())) if number % 2 else ways.items():
                if taken[name] and taken[name][0] > most:
                    continue
                self.wait()
                started = time.perf_counter()
                work()
                self.wait()
                taken[name].append(time.perf_counter() - started)
        return {name: median(seconds) for name, seconds in taken.items()}

    def peak(self, work: Work) -> float:
        """Bytes that `work` takes beyond what was there; 0 where there is no card."""
        if not self.on_card:
            return 0.0
        work()
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        torch.cuda.synchronize(self.device)
        return float(torch.cuda.max_memory_allocated(self.device) - before)


def draw(shape: Shape, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """q, k and v as the host hands them over: the heads of a token side by side."""
    generator = torch.Generator(device).manual_seed(0)
    size = (shape.batch, shape.tokens, shape.heads, shape.head_dim)
    return [
        torch.randn(size, generator=generator, device=device, dtype=torch.float32).to(dtype).transpose(1, 2)
        for _ in range(3)
    ]


def ways_of(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Work]:
    """Return the timed variants of one attention call, plain attention first."""

    def flash() -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v)

    def strengths() -> tuple[Tensor, Tensor]:
        return adapt(GAMMA, BETA, average(symmetricity(q, k)))

    def fused(beta: float) -> Tensor:
        return launch(FusedCall.of(q, k, v, GAMMA, beta))

    ways: dict[str, Work] = {
        "plain": lambda: F.scaled_dot_product_attention(q, k, v),
        "FlashAttention-2": flash,
        "γ, doubled heads": lambda: skew_attention(q, k, v, GAMMA, kernel=False, tiles=False),
        "γ and β, doubled heads": lambda: skew_attention(q, k, v, GAMMA, BETA, kernel=False, tiles=False),
        "η": strengths,
        "three measures": lambda: hopfield_stability(q, k, v, THREE),
    }
    if q.is_cuda and import_error() is None:
        ways["γ, kernel"] = lambda: fused(1.0)
        ways["γ and β, kernel"] = lambda: fused(BETA)
    return ways


def warm_up(shapes: tuple[Shape, ...], device: torch.device, dtype: torch.dtype) -> None:
    """Compile the kernels of all head dims side by side, which takes seconds each."""
    if device.type != "cuda" or import_error() is not None:
        return
    sizes = {shape.head_dim: shape for shape in shapes}

    def compiled(task: tuple[Shape, float]) -> None:
        shape, beta = task
        q, k, v = (x[:1, :, :193] for x in draw(shape, device, dtype))
        with suppress(Exception):  # the ways that fail are left out of the tables
            launch(FusedCall.of(q, k, v, GAMMA, beta))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(compiled, [(shape, beta) for shape in sizes.values() for beta in (1.0, BETA)]))
    torch.cuda.synchronize(device)


def measure_attention(
    shapes: tuple[Shape, ...], clock: Clock, dtype: torch.dtype
) -> Iterator[tuple[Shape, dict[str, float], dict[str, float]]]:
    """Yield for each shape seconds by way, and peak memory beyond q, k and v in units of q by way."""
    for shape in shapes:
        q, k, v = draw(shape, clock.device, dtype)
        ways = ways_of(q, k, v)
        seconds = clock.device_times(ways)
        size = q.numel() * q.element_size()
        memory = {name: clock.peak(ways[name]) / size for name in seconds}
        yield shape, seconds, memory


def choose(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """The quicker way by head dim and mode, over the shapes of this head dim with the most tokens."""
    table: dict[str, dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: int(row["tokens"])):
        for mode, name in (("gamma", "γ"), ("gamma and beta", "γ and β")):
            both = [row["seconds"].get(f"{name}, {way}") for way in ("kernel", "doubled heads")]
            if None not in both:
                chosen = choice.KERNEL if both[0] < both[1] else choice.DOUBLED_HEADS
                table.setdefault(str(row["head_dim"]), {})[mode] = chosen
    return table


# --- whole steps


def build(class_name: str, config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """A model of ComfyUI's own class with random weights, as a MODEL on the device."""
    import comfy.supported_models
    from comfy.model_patcher import ModelPatcher

    settings = getattr(comfy.supported_models, class_name)(dict(config))
    settings.set_inference_dtype(dtype, None)
    model = settings.get_model({}, "", device=device)
    model.to(device)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.diffusion_model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return ModelPatcher(model, load_device=device, offload_device=device)


@dataclass(frozen=True)
class Run:
    """A model and what it samples: its class, configuration, dtype, latent, text, and guidance."""

    title: str
    class_name: str
    config: dict[str, Any]
    dtype: torch.dtype
    latent: tuple[int, int, int]
    text: tuple[int, int]
    pooled: int
    cfg: float

    def sampler(self, model: Any, steps: int) -> Work:
        """Some Euler steps with `model`."""
        import comfy.sample

        generator = torch.Generator().manual_seed(1)
        noise = torch.randn((1, *self.latent), generator=generator)
        text = torch.randn((1, *self.text), generator=generator)
        extra = {"pooled_output": torch.zeros(1, self.pooled), "guidance": 3.5}
        wiring = [[text, extra]]

        def work() -> Tensor:
            empty = torch.zeros_like(noise)
            arguments = (model, noise, steps, self.cfg, "euler", "simple", wiring, wiring, empty)
            result: Tensor = comfy.sample.sample(*arguments, seed=0, disable_pbar=True)
            return result

        return work


def runs_of(tiny: bool) -> list[Run]:
    """The models whose steps are timed."""
    half, brain = torch.float16, torch.bfloat16
    if tiny:
        unet = {**UNETS["SD15"], **TINY_UNET}
        single = torch.float32
        return [
            Run("SD1.5, tiny", "SD15", unet, single, (4, 16, 16), (77, 48), 1280, 7.0),
            Run("Flux, tiny", "Flux", TINY_FLUX, single, (16, 8, 8), (10, 48), 32, 1.0),
        ]
    return [
        Run("SDXL 1024²", "SDXL", UNETS["SDXL"], half, (4, 128, 128), (77, 2048), 1280, 7.0),
        Run("SD1.5 512²", "SD15", UNETS["SD15"], half, (4, 64, 64), (77, 768), 1280, 7.0),
        Run("Flux 1024²", "Flux", FLUX, brain, (16, 128, 128), (512, 4096), 768, 1.0),
    ]


def measure_steps(run: Run, clock: Clock, steps: int, tiny: bool) -> dict[str, Any]:
    """Seconds a step by mode, whether γ = 1 gives the bits of the plain model, and the compiled model where wanted."""
    from lab.testing.run_nodes import compiled, probe, skew

    model = build(run.class_name, run.config, clock.device, run.dtype)
    patched: dict[str, Any] = {"plain": model}
    patched.update({name: skew(model, **widgets)[0] for name, widgets in MODES.items()})
    patched["probe"] = probe(model)[0]
    patched["probe, depth and curvature"] = probe(model, depth_and_curvature=True)[0]
    works = {name: run.sampler(each, steps) for name, each in patched.items()}
    found: dict[str, Any] = {"same bits at γ = 1": torch.equal(works["plain"](), works["γ = 1"]())}
    most = 1.0 * steps
    seconds = clock.wall_times(works, most)
    if run.class_name == "Flux":
        backend = "eager" if tiny else "inductor"
        graphs = {
            name: compiled(each, fullgraph=False, backend=backend)
            for name, each in (("compiled, plain", model), ("compiled, γ", patched["γ"]))
        }
        seconds.update(clock.wall_times({name: run.sampler(each, steps) for name, each in graphs.items()}, most))
        torch._dynamo.reset()
    found["seconds"] = {name: value / steps for name, value in seconds.items()}
    return found


# --- tables


def ratio(seconds: Mapping[str, float], name: str, to: str = "plain") -> str:
    """A cell with the ratio of two times, empty where one was not measured."""
    return f"{seconds[name] / seconds[to]:.2f}" if name in seconds and to in seconds else ""


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(found: Mapping[str, Any]) -> str:
    """All that was measured, as the tables of docs/speed.md."""
    attention = []
    for row in found["attention"]:
        seconds, memory = row["seconds"], row["memory"]
        cells = [row["shape"], f"{1000 * seconds['plain']:.3f}", ratio(seconds, "FlashAttention-2")]
        for name in ("γ", "γ and β"):
            cells += [ratio(seconds, f"{name}, {way}") for way in ("doubled heads", "kernel")]
        cells += [ratio(seconds, name) for name in ("η", "three measures")]
        held = ("γ and β, doubled heads", "γ and β, kernel", "three measures")
        cells.append(" · ".join(f"{memory[name]:.1f}" for name in held if name in memory))
        attention.append(cells)
    head = ["shape (B H L d)", "plain, ms", "FlashAttention-2", "γ: doubled heads", "γ: kernel"]
    head += ["γ and β: doubled heads", "γ and β: kernel", "η", "three measures", "memory in q"]
    names = [*MODES, "probe", "probe, depth and curvature", "compiled, γ"]
    steps = []
    for name in names:
        cells = [name]
        for each in found["steps"].values():
            cells.append(ratio(each["seconds"], name, "compiled, plain" if name.startswith("compiled") else "plain"))
        steps.append([*cells, f"{GOALS[name]:g}"])
    titles = [f"{title} ({1000 * each['seconds']['plain']:.1f} ms)" for title, each in found["steps"].items()]
    bits = all(each["same bits at γ = 1"] for each in found["steps"].values())
    return "\n\n".join(
        [
            f"{found['device']}, torch {found['torch']}. Attention alone, to plain attention:",
            markdown(head, attention),
            "A whole sampling step, to the step of the plain model:",
            markdown(["", *titles, "goal"], steps),
            f"γ = 1 gives the bits of the plain model: {'yes' if bits else 'NO'}.",
        ]
    )


def write_between(path: Path, text: str) -> None:
    """Put `text` between the two marks of a page.

    Raises:
        ValueError: the page has no marks.
    """
    page = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if pattern.search(page) is None:
        raise ValueError(f"{path} has no place for the tables; it must have the lines {BEGIN} and {END}.")
    path.write_text(pattern.sub(lambda _: f"{BEGIN}\n\n{text}\n\n{END}", page), encoding="utf-8")


def write_choices(architecture: str, table: Mapping[str, Mapping[str, str]], path: Path = choice.CHOICES) -> None:
    """Put the choices of one architecture into the table of the fused kernel, a line a head dim."""
    known = json.loads(path.read_text(encoding="utf-8"))
    known[architecture] = {**known.get(architecture, {}), **table}
    blocks = []
    for name in sorted(known):
        lines = [f'    "{dim}": {json.dumps(known[name][dim])}' for dim in sorted(known[name], key=int)]
        blocks.append(f'  "{name}": {{\n' + ",\n".join(lines) + "\n  }")
    path.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time the pack on a graphics card.")
    parser.add_argument("--comfyui", type=expand_path, required=True, help="a ComfyUI folder")
    parser.add_argument("--output", type=expand_path, default=Path("gpu.json"), help="the JSON file to write")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on the CPU, only to see that it runs")
    parser.add_argument("--write", action="store_true", help="write docs/speed.md and the choices of the kernel")
    options = parser.parse_args(arguments)
    if not options.tiny and not torch.cuda.is_available():
        parser.error("there is no card that PyTorch can use; --tiny runs on the CPU")
    started = time.monotonic()
    device = torch.device("cpu" if options.tiny else "cuda")
    start_host(options.comfyui, "pytorch", on_cpu=options.tiny)
    load_pack()
    torch.set_grad_enabled(False)
    clock = Clock(device, 1 if options.tiny else options.rounds)
    dtype = torch.float32 if options.tiny else torch.bfloat16
    shapes = TINY_SHAPES if options.tiny else SHAPES
    name = "CPU, tiny sizes: no measurement" if options.tiny else torch.cuda.get_device_name(device)
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "attention": [], "steps": {}}

    def done(what: str, function: Callable[[], None]) -> None:
        """Do a part; what goes wrong in it costs no other part, and what is there is written at once."""
        try:
            function()
        except Exception as error:
            if options.tiny:
                raise
            found.setdefault("failed", {})[what] = f"{type(error).__name__}: {error}"
        found["seconds"] = time.monotonic() - started
        options.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{what}: {found['seconds']:.0f} s so far", flush=True)

    def attention() -> None:
        warm_up(shapes, device, dtype)
        for shape, seconds, memory in measure_attention(shapes, clock, dtype):
            row = {"shape": str(shape), "tokens": shape.tokens, "head_dim": shape.head_dim}
            found["attention"].append({**row, "seconds": seconds, "memory": memory})

    done("attention", attention)
    for run in runs_of(options.tiny):
        if time.monotonic() - started > SECONDS:
            print(f"{run.title}: left out, {SECONDS} s are over", flush=True)
            continue

        def steps(run: Run = run) -> None:
            found["steps"][run.title] = measure_steps(run, clock, 1 if options.tiny else 2, options.tiny)

        done(run.title, steps)
    text = tables(found)
    print(f"\n{text}")
    if options.write and not options.tiny:
        write_between(SPEED, text)
        write_choices(choice.architecture_of(torch.cuda.current_device()), choose(found["attention"]))


if __name__ == "__main__":
    main()
