"""How long the command line takes to help, and to say what is wrong with a recipe: seconds of CPU (user and system) and of the clock.

    python benchmarks/startup.py

Each command runs in a process of its own, once to warm the disk's cache and then `--runs` times; the median is shown. On a busy machine the
clock says more of the machine than of the command. The last row is a recipe in which only transformers' own settings find the mistake.
At the end: how long a recipe without a mistake takes to its first line, and the CPU that this took; it is then ended.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = """
import sys
from peft_unlearn.cli import main
status = main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(status)
"""
IMPORT = "import time; start = time.monotonic(); import peft_unlearn; print(time.monotonic() - start)"
RECIPE = "model_name_or_path: some/model\nforget_dataset: some/texts\noutput_dir: out\n"
WRONG = {
    "an unknown key": "learnin_rate: 1\n",
    "another tool's key": "lora_rank: 8\n",
    "a value of another type": "learning_rate: fast\n",
    "values that do not go together": "logit_lens_coef: 0.3\n",
    "a file that is not there": "holdout_dataset: none.jsonl\n",
    "fp16 and bf16": "fp16: true\nbf16: true\nuse_cpu: true\n",
}


def measure(arguments: list[str], folder: str) -> tuple[float, float, str, str]:
    """CPU seconds, seconds, whether torch was imported, and the last line of the errors."""
    before, start = os.times(), time.monotonic()
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, cwd=folder)
    seconds, after = time.monotonic() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, seconds, "yes" if done.stdout.splitlines()[-1] == "True" else "no", (done.stderr.splitlines() or ["-"])[-1]


def first_line(folder: str) -> tuple[float, float, str]:
    """CPU seconds and seconds until a training says something, and what."""
    (Path(folder) / "texts.jsonl").write_text('{"text": "a text"}\n')
    (Path(folder) / "right.yaml").write_text(RECIPE.replace("some/texts", "texts.jsonl"))
    before, start = os.times(), time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "peft_unlearn", "train", "right.yaml"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=folder,
    ) as process:
        line, seconds = str(process.stderr and process.stderr.readline()).strip(), time.monotonic() - start
        process.kill()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system, seconds, line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    imports = [subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True).stdout for _ in range(options.runs)]
    print(f"import peft_unlearn: {statistics.median(map(float, imports)):.3f} s\n")
    print("| command | CPU s | clock s | torch | what it says |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        commands = {"--help": ["--help"], "keys": ["keys"]}
        for name, line in WRONG.items():
            Path(folder, f"{name}.yaml").write_text(RECIPE + line)
            commands[f"train, {name}"] = ["train", f"{name}.yaml"]
        for name, arguments in commands.items():
            measure(arguments, folder)
            found = [measure(arguments, folder) for _ in range(options.runs)]
            cpu, seconds = (statistics.median(run[part] for run in found) for part in (0, 1))
            print(
                f"| {name} | {cpu:.2f} | {seconds:.2f} | {found[0][2]} | {found[0][3].removeprefix('peft-unlearn: error: ')} |", flush=True
            )
        median = sorted(first_line(folder) for _ in range(options.runs))[options.runs // 2]
        print(f"\nThe first line of a training after {median[1]:.2f} s, {median[0]:.2f} s of CPU: {median[2]}")


if __name__ == "__main__":
    main()
