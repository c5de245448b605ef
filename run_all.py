"""Starts the whole fleet; `python run_all.py --help` tells how."""

from services.fleet.cli import main

if __name__ == "__main__":
    main()
