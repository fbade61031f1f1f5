"""Start-up: what `import efface` costs beyond torch's own import, and what `efface --help` costs.

python -m benchmarks.startup
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks._measure import interleaved, table

CASES = {
    "python alone": "pass",
    "import efface": "import efface",
    "import torch": "import torch",
    "import torch, safetensors.torch": "import torch, safetensors.torch",
    "from efface import LeaceEraser": "from efface import LeaceEraser",
    "efface --help": "import efface.cli, contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()):\n"
    "    try:\n        efface.cli.main(['--help'])\n    except SystemExit:\n        pass",
}


def main() -> None:
    runs = {
        name: lambda code=code: subprocess.run([sys.executable, "-c", code], check=True) for name, code in CASES.items()
    }
    times = interleaved(runs, repeats=5)
    base = times["python alone"]
    table(
        "Start-up, best of 5", ["", "ms above python alone"], [[n, f"{(t - base) * 1e3:.0f}"] for n, t in times.items()]
    )
    beyond = times["from efface import LeaceEraser"] - times["import torch"]
    print(f"\nefface with all its vector erasers loaded, beyond torch: {beyond * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
