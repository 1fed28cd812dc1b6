"""The README's Python, run as written."""

import re
from pathlib import Path

import pytest
import torch

import pndm

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "README.md").read_text("utf-8"), re.DOTALL)


@pytest.fixture
def registry(monkeypatch):
    """The registry of solvers, put back as it was."""
    monkeypatch.setattr(pndm.solvers.solvers, "_entries", dict(pndm.solvers.solvers._entries))


def test_solving_from_python():
    names: dict[str, object] = {}
    exec(BLOCKS[0], names)
    solution = names["solution"]
    assert isinstance(solution, pndm.Solution)
    assert solution.x.shape == (16, 1, 28, 28)
    assert solution.nfe == 59
    assert len(solution.times) == 51
    assert solution.x.abs().max() < 2, "not an image"


def test_a_solver_of_your_own(registry, mixture, noise):
    exec(BLOCKS[1], {})
    rough, fine, finer = (
        pndm.solve(mixture, noise, solver="pseudo_ralston", schedule="vp_linear", steps=steps, t_end=0.01).x
        for steps in (80, 160, 320)
    )
    order = torch.log2((rough - fine).norm() / (fine - finer).norm()).item()
    assert order == pytest.approx(2, abs=0.15)


def test_in_diffusers(monkeypatch, tmp_path):
    """With a small network in the place of the one on the hub."""
    import diffusers
    import huggingface_hub

    network = diffusers.UNet2DModel(sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
                                    down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))  # fmt: skip
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: tmp_path)
    names: dict[str, object] = {}
    exec(next(block for block in BLOCKS if "PNDMPipeline" in block), names)
    assert len(names["images"]) == 4
    assert names["pipe"].scheduler.config.solver == "unipc"


def test_table_of_solvers_is_the_registry():
    """Name, order and evaluations a step, as the README's table says and as the solvers do."""
    text = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| (\S+)[^|]*\| (\S+) \|$", text, re.MULTILINE)
    assert {name for name, _, _ in rows} == set(pndm.solvers.names())
    for name, order, cost in rows:
        solver = pndm.solvers.create(name)
        running = getattr(solver, "running_order", solver.order)
        assert order == ("–" if solver.stochastic else str(running)), name
        assert cost == ("adaptive" if solver.evaluations_per_step is None else str(solver.evaluations_per_step)), name
