"""`python -m oc2d` is `oc2d`."""

from __future__ import annotations

from oc2d.cli import program

__all__: list[str] = []

if __name__ == "__main__":
    program()
