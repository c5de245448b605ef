"""What ends an evaluation, beside what ends any command.

CommandError
├── InputRefused
│   └── FolderRefused    a file of the folder is not as it should be; names file and line
└── Failed
    └── OtherVectors     the cache holds vectors that this fleet's model did not make
"""

from __future__ import annotations

from services.command.errors import Failed, InputRefused

__all__ = ["FolderRefused", "OtherVectors"]


class FolderRefused(InputRefused):
    """A file of the folder is not as it should be; the text begins with `file:line:`."""


class OtherVectors(Failed):
    """The cache holds vectors that this fleet's model did not make."""
