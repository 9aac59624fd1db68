"""The older spelling of `python -m recognition plan`."""

import sys

if __name__ == "__main__":
    sys.exit("this command is now: python -m recognition plan")
