"""Pictures: image grids, and what all figures share (one colour a solver, the backend that needs no screen)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

# Fixed for the solvers that figures are mostly about, so that a colour means the same solver in all of them.
COLOURS = {
    "ddim": "#1f77b4", "pseudo_euler": "#1f77b4", "s_pndm": "#2ca02c", "plms": "#d62728", "fon": "#9467bd",
    "prk": "#ff7f0e", "pseudo_heun": "#bcbd22", "euler": "#7f7f7f", "heun": "#8c564b", "rk4": "#17becf",
    "ab4": "#e377c2", "ddpm": "#aec7e8", "pf_ode": "#000000",
    "unipc": "#005f73", "dpm_solver_2": "#ca6702", "dpm_solver_3": "#9b2226", "edm_heun": "#606c38",
    "sde_dpmpp_2m": "#b565a7", "adaptive": "#3a0ca3", "deis": "#d4a017", "dpmpp_2m": "#1b3a8a", "dpmpp_3m": "#6f86d6",
    "ipndm": "#f08080", "rho_ab": "#3d2b1f", "rho_rk4": "#7cb518", "adams_bashforth": "#5c4d7d",
}  # fmt: skip
SPARE = ("#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#dbdb8d", "#9edae5", "#ffbb78")
MARKERS = "os^Dv<>Ph*X"
LINES = ("-", "--", ":", "-.")


def colour(solver: str) -> str:
    """The colour of a solver, the same in every figure and every run."""
    return COLOURS.get(solver) or SPARE[sum(solver.encode()) % len(SPARE)]


def line_style(label: str, labels: Iterable[str]) -> str:
    """Solid for the first of the labels that begin with the same solver's name, then dashed and dotted."""
    same = [other for other in labels if other.split()[0] == label.split()[0]]
    return LINES[same.index(label) % len(LINES)]


def numbers_on(axis: Any) -> None:
    """A few numbers in a decade of a logarithmic axis, written out; after its limits are set."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_locator(NullLocator())


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure that draws without a screen; matplotlib is slow to import, and only figures need it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def image_grid(images: Tensor, columns: int | None = None, scale: int = 3, gap: int = 2) -> bytes:
    """A PNG of images side by side. images: uint8 (N, C, H, W) with C = 1 or 3; `scale` enlarges each pixel."""
    from PIL import Image

    n, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, dtype=np.uint8)
    for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        y, x = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image
    sheet = sheet.repeat(scale, axis=0).repeat(scale, axis=1)
    drawn = io.BytesIO()
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(drawn, format="png")
    return drawn.getvalue()
