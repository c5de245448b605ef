"""`python -m schemas` writes `schemas/asyncapi.json`."""

from __future__ import annotations

from pathlib import Path

from schemas.asyncapi import render

if __name__ == "__main__":
    target = Path(__file__).with_name("asyncapi.json")
    target.write_text(render(), encoding="utf-8")
    print(target)
