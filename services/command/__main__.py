"""`python -m services.command`: the `consonance` command without its script."""

from services.command import main

if __name__ == "__main__":
    main()
