"""`python -m efface`."""

import sys

from efface.cli import main

if __name__ == "__main__":
    sys.exit(main())
