"""The solvers, one family a file, each registered by name."""

from pndm.solvers import (  # noqa: F401  (each registers its family)
    adams_bashforth,
    adaptive,
    ddim,
    dpm_solver,
    edm,
    pf_ode,
    runge_kutta,
    sde_dpm,
    unipc,
)
from pndm.solvers.base import Solver, Step, create, names, register, solvers

__all__ = ["Solver", "Step", "create", "names", "register", "solvers"]
