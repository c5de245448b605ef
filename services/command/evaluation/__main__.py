"""`python -m services.command.evaluation`: what `consonance evaluate` does."""

import sys

from services.command import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
