"""Prints what it was given."""

import sys

print(sys.argv[1:], sys.stdin.read() == "")
