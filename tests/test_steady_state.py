"""What a run of `pndm.solve` keeps in memory, and that it never waits for a device."""

import pytest
import torch

import pndm
from pndm import solve, solvers
from pndm.models.memory import Alive
from pndm.solve import _Evaluator

FIXED = [name for name in solvers.names() if solvers.create(name).evaluations_per_step is not None]
STATE = (8, 3, 16, 16)
# Beside the given state: the current and the next one, the directions kept, and what a step takes on the way.
MOST_STATES = {"ddim": 3, "s_pndm": 4, "plms": 7, "prk": 5, "dpmpp_2m": 5, "unipc": 7}


class Watched(Alive):
    """Also notes the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations.append(func.__name__)
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.parametrize("name", MOST_STATES)
@pytest.mark.parametrize("steps", [10, 40])
def test_states_alive_at_once(name, steps):
    x = torch.randn(STATE)
    with Alive() as alive:
        solve(lambda x, t: torch.tanh(x), x, solver=name, steps=steps)
    states = alive.peak / (x.numel() * x.element_size())
    assert states <= MOST_STATES[name] + 0.1, f"{name} held {states:.2f} states"


@pytest.mark.parametrize("name", FIXED)
def test_a_device_is_never_waited_for(name, monkeypatch):
    """Meta tensors hold no numbers: reading one, as a synchronisation with a GPU does, is an error."""
    asked = []
    monkeypatch.setattr(_Evaluator, "check", lambda self: asked.append(len(self.unread)))

    def model(x, t):
        assert t.device == x.device
        return torch.empty_like(x)

    x = torch.empty(STATE, device="meta")
    solution = solve(model, x, solver=name, steps=12, generator=torch.empty_like)
    assert solution.x.device.type == "meta"
    assert asked == [solution.nfe + 1]  # every answer, and the state at the end


def test_what_another_device_answered_is_read_once_and_in_order(monkeypatch):
    """The CPU plays the other device."""
    init = _Evaluator.__init__
    monkeypatch.setattr(_Evaluator, "__init__", lambda self, *a: (init(self, *a), setattr(self, "at_once", False))[0])
    answers = iter(range(1, 100))

    def model(x, t):
        return torch.full_like(x, torch.nan) if next(answers) in (7, 9) else torch.tanh(x)

    with Watched() as alive, pytest.raises(pndm.ModelError, match="solver ddim, step 7, evaluation 7 of 12"):
        solve(model, torch.randn(STATE), solver="ddim", steps=12)
    assert alive.operations.count("_local_scalar_dense.default") <= 12
    assert "_local_scalar_dense.default" not in alive.operations[: alive.operations.index("stack.default")]


@pytest.mark.parametrize("name", ["ddim", "plms"])
def test_a_last_state_that_is_not_finite_is_read_with_the_answers(name, monkeypatch):
    init = _Evaluator.__init__
    monkeypatch.setattr(_Evaluator, "__init__", lambda self, *a: (init(self, *a), setattr(self, "at_once", False))[0])
    x = torch.randn(STATE)
    x[0, 0, 0, 0] = torch.nan
    with pytest.raises(pndm.ModelError, match=f"the state at the end holds NaN or infinity, .*: solver {name}$"):
        solve(lambda x, t: torch.tanh(x.nan_to_num()), x, solver=name, steps=12)
