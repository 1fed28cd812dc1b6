"""The typed configuration of run.py, and what is made of it."""
