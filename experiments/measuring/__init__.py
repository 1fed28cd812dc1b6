"""What runs and solvers are measured against: data, reference solutions, metrics."""
