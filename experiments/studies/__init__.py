"""Studies of solvers against a reference solution."""
