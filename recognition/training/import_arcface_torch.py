"""The older spelling of `python -m recognition import_arcface_torch`."""

import sys

if __name__ == "__main__":
    sys.exit("this command is now: python -m recognition import_arcface_torch")
