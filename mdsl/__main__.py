"""`python -m mdsl`, and the console script `mdsl`."""

import os
import sys


def main() -> None:
    """Starts the command. Ctrl-C is heard while that is still being imported."""
    try:
        from mdsl.cli import main as start
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        os._exit(130)
    start()


if __name__ == "__main__":
    main()
