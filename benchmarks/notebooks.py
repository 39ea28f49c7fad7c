"""Run the notebooks from top to bottom, each in an empty folder, without a network.

    python benchmarks/notebooks.py                      # all of them
    python benchmarks/notebooks.py forget_one_person

What a notebook prints is kept in `--output`, not in git. A cell that fails ends it, with its error.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"


def main() -> None:
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names)}; all of them if left out")
    parser.add_argument("--output", type=Path, default=Path("runs/notebooks"), help="a folder for the executed notebooks")
    parser.add_argument("--minutes", type=float, default=20, help="that a cell may take")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    above = os.environ.get("PYTHONPATH")
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *([above] if above else [])])}
    for name in options.names or names:
        start = time.monotonic()
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            try:
                NotebookClient(notebook, timeout=int(60 * options.minutes), resources={"metadata": {"path": folder}}).execute()
            finally:
                nbformat.write(notebook, options.output / f"{name}.ipynb")
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
