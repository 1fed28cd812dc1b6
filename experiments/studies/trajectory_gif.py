"""The animation of `experiment=trajectory`: samples in the plane flowing under two solvers, side by side."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from experiments import figures
from pndm.schedules import Schedule

FRAMES = 60  # at least; between the times of the grid states are drawn on the straight way
MILLISECONDS, HOLD = 60, 1500
TRAIL = 12  # frames


def flow(record: dict[str, Any], pair: dict[str, np.ndarray], data: np.ndarray, schedule: Schedule) -> bytes:
    """A GIF. pair: states in the plane by solver, (N + 1, B, 2). data: exact samples in the plane, (n, 2)."""
    from PIL import Image

    times = np.array(record["times"])
    between = max(1, round(FRAMES / (len(times) - 1)))
    shares = np.arange(between * (len(times) - 1) + 1) / between
    paths = {label: _between(path, shares) for label, path in pair.items()}
    moments = _between(times[:, None, None], shares)[:, 0, 0]
    limit = 1.1 * max(np.quantile(np.abs(path[np.isfinite(path)]), 0.995) for path in pair.values())
    figure = figures.new_figure(8.2, 4.5)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    drawn = []
    for axes, label in zip(panels, paths, strict=True):
        shade = figures.colour(label.split()[0])
        clean = axes.plot([], [], ".", color="0.75", ms=2.5, zorder=1)[0]
        trails = axes.plot([], [], color=shade, lw=0.5, alpha=0.35, zorder=2)[0]
        dots = axes.plot([], [], "o", color=shade, ms=3, mec="white", mew=0.3, zorder=3)[0]
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        axes.set_title(f"{label}, {record['nfe'][label]} evaluations", fontsize=10)
        axes.grid(alpha=0.25)
        note = axes.text(0.03, 0.03, "", transform=axes.transAxes, fontsize=9)
        drawn.append((clean, trails, dots, note))
    heading = figure.suptitle(" ", fontsize=11)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # the panels stay where they are
    moving = [*(artist for artists in drawn for artist in artists), heading]
    for artist in moving:
        artist.set_animated(True)  # left out of the still background, which is drawn once
    figure.canvas.draw()
    still = figure.canvas.copy_from_bbox(figure.bbox)
    frames = []
    for k, t in enumerate(moments):
        heading.set_text(f"{record['target']['name']}: samples x, and in grey the data times α;   t = {t:.3f}")
        for (clean, trails, dots, note), (label, path) in zip(drawn, paths.items(), strict=True):
            error = record["solvers"][label]["path_error"][k // between]
            note.set_text(f"distance from the exact path {error:.0e}" if k >= between else "")
            clean.set_data(*(schedule.alpha(float(t)) * data).T)
            trail = path[max(0, k - TRAIL) : k + 1]
            gaps = np.full((1, *trail.shape[1:]), np.nan)  # a line breaks at what is not a number
            trails.set_data(*np.concatenate([trail, gaps]).transpose(2, 1, 0).reshape(2, -1))
            dots.set_data(*path[k].T)
        figure.canvas.restore_region(still)
        for artist in moving:
            (artist.axes or figure).draw_artist(artist)
        pixels = np.array(figure.canvas.buffer_rgba())[..., :3]
        frames.append(Image.fromarray(pixels).quantize(64, dither=Image.Dither.NONE))
    whole = io.BytesIO()
    durations = [MILLISECONDS] * (len(frames) - 1) + [HOLD]
    frames[0].save(
        whole, format="gif", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False
    )
    return whole.getvalue()


def _between(path: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(N + 1, B, d) at places from 0 to N, on straight lines between the states."""
    left = np.minimum(shares.astype(int), len(path) - 2)
    along = (shares - left)[:, None, None]
    return path[left] * (1 - along) + path[left + 1] * along
