"""One experiment, or a sweep with -m: `python run.py solver=plms steps=50`. See `python run.py --help` and `--list`."""

import sys

from experiments.command_line import main

if __name__ == "__main__":
    sys.exit(main())
