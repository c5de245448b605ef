"""The instruments as a command: `python -m lora --help`."""

from lora.commands import main

if __name__ == "__main__":
    main()
