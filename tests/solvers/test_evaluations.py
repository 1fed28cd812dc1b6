"""Every registered solver asks for as many evaluations as it says, and never where there is no noise."""

import pytest
import torch

from pndm import schedules, solve, solvers


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("end", [-1.0, 0.0, 20.0])
@pytest.mark.parametrize("name", solvers.names())
def test_evaluations_are_those_announced(name, end, steps, mixture, noise):
    schedule, asked = schedules.create("linear"), []

    def model(x, t):
        asked.append(float(t[0]))
        return torch.tanh(x)

    if end == -1 and name != "pf_ode" and solvers.create(name)._transfer_type.clock == "t":
        pytest.skip("dx/dt is infinite where sigma = 0")
    solution = solve(model, noise, solver=name, steps=steps, schedule=schedule, t_end=end)
    announced = solvers.create(name).begin(schedule, solution.times, None).evaluations()
    assert solution.nfe == len(asked)
    assert announced in (None, solution.nfe)
    assert all(end <= t <= 999 and schedule.sigma(t) > 0 for t in asked)
    assert solution.x.isfinite().all()
