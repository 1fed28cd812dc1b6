"""Training of networks, and of the classifiers in whose features metrics look."""
