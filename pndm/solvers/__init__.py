"""The solvers, one family a file, each registered by name."""

from pndm.solvers import adams_bashforth, ddim, pf_ode, runge_kutta  # noqa: F401  (each registers its family)
from pndm.solvers.base import Solver, Step, create, names, register, solvers

__all__ = ["Solver", "Step", "create", "names", "register", "solvers"]
