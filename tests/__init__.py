"""A package, so that no installed package named tests (torch-fidelity has one) is found in its place."""
