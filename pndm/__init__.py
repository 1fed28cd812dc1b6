"""pndm: numerical methods for diffusion sampling.

pndm.solve(model, x, solver="plms", steps=50)     carry noise to samples
pndm.solvers / pndm.schedules / pndm.grids        names(), create(name, **options), register(name)
"""

from pndm import grids, noise, schedules, solvers
from pndm.errors import ModelError, OptionError
from pndm.solve import Solution, solve

__version__ = "0.1.0"
__all__ = ["ModelError", "OptionError", "Solution", "grids", "noise", "schedules", "solve", "solvers"]
