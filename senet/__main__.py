"""`python -m senet` is the `senet` command."""

from senet.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
