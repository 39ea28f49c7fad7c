"""What of the texts to forget, and of a token, stays behind: commands run on a text that stands nowhere else, then all that they left is searched.

    python benchmarks/private.py [--only SCENE ...] [--list]

Every scene is one or more commands in a folder of its own, with a home, temporary folder and caches of its own, on a base that recites the forget
set, with tokens in the environment, in the recipe and in a data set's mapping. Then stdout, stderr and each file (packed ones unpacked) are searched
for four words of the canary in a row, for its odd word, for its token ids as numbers of 1 to 8 bytes and as text, and for the tokens.

What may hold it: the files that the user gave (`GIVEN`), and what `--show-text` prints and writes, which says so and is never uploaded. A run that is
killed outright leaves the rows that it was loading in a folder which its owner alone may read, until the next command: a scene sees both.
"""

import argparse
import gzip
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hostile.bed import make_bed
from hostile.recipes import RECIPE
from peft_unlearn.util.scratch import PREFIX

WORD = "zq7canary"  # that no tokenizer of the bed knows
SENTENCE = "six blue one city five red two green three who"  # that it knows, so that a model can say it
TOKEN, OTHER_TOKEN = "hf_" + "cAnArYtOkEn" * 3, "hf_" + "oThErCaNaRy" * 3
IN_A_ROW = 4  # words of the canary, or token ids, that are a find
GIVEN = ("*.jsonl", "*.json.gz", "given/*")  # what the user wrote, in the scene's folder
PRIVATE = 0o077  # bits of a mode that let others in
SECONDS = 240

Damage = Callable[[Path], None]


@dataclass(frozen=True)
class Scene:
    """Command lines, one after the other; what is done before; what ends the first, and when; and the exit status of the last."""

    commands: tuple[tuple[str, ...], ...]
    before: Damage | None = None
    stop: tuple[int, Callable[[Path], bool]] | None = None
    status: int = 0
    needs: str = ""  # a package
    crash: bool = False


def wrote(name: str, content: str | bytes) -> Damage:
    def write(folder: Path) -> None:
        (folder / "given").mkdir(exist_ok=True)
        (folder / "given" / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def row(**columns: object) -> str:
    return json.dumps(columns) + "\n"


TEXT = f"{SENTENCE} {WORD}"
TRAIN = ("train", "r.yaml", "--hub_token", OTHER_TOKEN)
LONG = (*TRAIN, "--max_steps", "500", "--save_steps", "2", "--save_strategy", "steps")
PLAN = ("plan", "r.yaml")
SETS = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", "--holdout", "holdout.jsonl", "--rows", "3", "--set", "max_length=48")
GOOD = row(text=TEXT)
TURNS = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]
# Files of rows that are refused, each with the canary where a message would be likely to print it.
REFUSED: dict[str, str | bytes] = {
    "no-header.csv": f'"{TEXT}","{TEXT} again"\n"{TEXT}",b\n',
    "no-header-one-column.csv": f"{TEXT}\n{TEXT}\n",
    "ragged.csv": f"question,answer\n{TEXT},b\n{TEXT},b,{TEXT},d\n",
    "quote.csv": f'text\n"{TEXT}\n',
    "latin.csv": f"text\n{TEXT} caf\xe9\n".encode("latin-1"),
    "latin.txt": f"{TEXT} caf\xe9\n".encode("latin-1"),
    "cut.jsonl": GOOD + GOOD[:-4],
    "quote.jsonl": f'{{"text": "{TEXT}" "{TEXT}"}}\n',
    "no-json.jsonl": f"{TEXT}\n",
    "string.jsonl": json.dumps(TEXT) + "\n",
    "keys.jsonl": row(**{TEXT: "a"}),
    "keys-differ.jsonl": row(text="red") + row(**{TEXT: "red", "text": "x"}) + row(**{f"{TEXT} b": {"a": 1}}),
    "kinds-differ.jsonl": row(text=5) + GOOD,
    "objects-differ.jsonl": row(text={"a": TEXT}) + row(text=[TEXT]),
    "number.jsonl": row(question=TEXT, answer=5),
    "missing.jsonl": row(question=TEXT, answer=None),
    "columns-change.jsonl": row(**{TEXT: {"a": 1}}) + row(**{TEXT: "x"}),
    "kinds-change.csv": "question,answer,n\n" + "red,blue,1\n" * 10_001 + f"{TEXT},{TEXT},{TEXT}\n",
    "kinds-change.jsonl": row(text="red " * 10_000, n=1) * 270 + row(text=TEXT, n=TEXT),
    "keys-change.jsonl": row(text="red " * 10_000) * 270 + row(**{"text": "red", TEXT: TEXT}),
    "half.jsonl": row(question=TEXT),
    "mixed.jsonl": GOOD + row(question=TEXT, answer=TEXT),
    "speaker.jsonl": row(conversations=[{"from": TEXT, "value": TEXT}, {"from": "gpt", "value": TEXT}]),
    "role.jsonl": row(messages=[*TURNS, {"role": TEXT, "content": TEXT}]),
    "content.jsonl": row(messages=[{"role": "user", "content": [{"type": TEXT}]}, TURNS[1]]),
    "tools.jsonl": row(messages=TURNS, tools=TEXT),
    "arguments.jsonl": row(messages=TURNS, chat_template_kwargs=TEXT),
    "calls.jsonl": row(messages=[TURNS[0], {"role": "assistant", "content": None, "tool_calls": [TEXT]}]),
    "last.jsonl": row(messages=TURNS[::-1]),
    "beside.jsonl": row(instruction=TEXT, output=TEXT, history=[[TEXT, TEXT]]),
    "surrogate.jsonl": f'{{"text": "{TEXT} \\ud800"}}\n',
    "deep.jsonl": f'{{"text": {"[" * 200}"{TEXT}"{"]" * 200}}}\n',
    "tokens.jsonl": row(input_ids=TEXT, labels=TEXT),
    "list.json": json.dumps([{"text": TEXT}, TEXT]),
    "object.json": json.dumps({TEXT: TEXT}),
    "cut.json.gz": gzip.compress(GOOD.encode() * 50)[:-30],
    "no.parquet": f"PAR1{TEXT}PAR1",
    "long.jsonl": row(question=" ".join([TEXT] * 20), answer="red"),
}
CRASH = """
import sys
import torch
from transformers import Trainer
from peft_unlearn.cli import main
steps = 0
def crash(*args, **kwargs):
    global steps
    steps += 1
    if steps > 3:
        args[2]["forget"]["input_ids"].index_select(0, torch.tensor([10**6]))
    return step(*args, **kwargs)
from peft_unlearn.training.trainer import UnlearnTrainer
step, UnlearnTrainer.training_step = UnlearnTrainer.training_step, crash
sys.exit(main(sys.argv[1:]))
"""


def loading(folder: Path) -> bool:
    """Whether rows are being written into a temporary folder."""
    return any(path.stat().st_size > 1e5 for path in (folder / "env/tmp").glob(f"{PREFIX}*/**/*") if path.is_file())


def training(folder: Path) -> bool:
    return any((folder / "out").glob("checkpoint-*"))


def many(folder: Path) -> None:
    """So many rows that loading takes a while."""
    wrote("many.jsonl", row(question=f"what is {WORD} ?", answer=SENTENCE) * 400_000)(folder)


MANY = (*TRAIN, "--forget_dataset", "given/many.jsonl")
SCENES: dict[str, Scene] = {
    "plan": Scene((PLAN,)),
    "train": Scene(((*TRAIN, "--holdout_dataset", "holdout.jsonl", "--eval_strategy", "steps", "--eval_steps", "2", "--save_steps", "2"),)),
    "train, mean_teacher": Scene(((*TRAIN, "--method", "mean_teacher", "--answers", "natural"),)),
    "train, auto with a never-seen model": Scene(((*TRAIN, "--method", "auto", "--never_seen_model_name_or_path", "other"),)),
    "train, the model writes its own retain set": Scene(((*TRAIN, "--retain_dataset", "null", "--self_retain_rows", "8"),)),
    "train, a token in the data's mapping": Scene(
        (("train", "r.yaml", "--forget_dataset", f"{{path: forget.jsonl, token: {OTHER_TOKEN}}}"),), status=2
    ),
    "train, TensorBoard": Scene(((*TRAIN, "--report_to", "tensorboard", "--logging_steps", "1"),), needs="tensorboard"),
    "train, W&B": Scene(((*TRAIN, "--report_to", "wandb", "--logging_steps", "1"),), needs="wandb"),
    "evaluate": Scene((("evaluate", "base", *SETS),)),
    "train, evaluate, audit, merge, export": Scene(
        (
            TRAIN,
            ("evaluate", "out", *SETS, "--output", "evaluated/report.json"),
            ("audit", "out", *SETS, "--attacks", "scale", "prompts", "relearning"),
            ("merge", "out", "--output", "merged", *SETS[:4], "--rows", "2"),
            ("export", "out", "--output", "exported"),
        )
    ),
    "audit, all attacks": Scene((TRAIN, ("audit", "out", *SETS))),
    "refused recipe": Scene(((*TRAIN, "--lora_r", "0"),), status=2),
    "refused value": Scene(((*TRAIN, "--hub_token", OTHER_TOKEN, OTHER_TOKEN),), status=2),
    **{f"refused rows, {name}": Scene(((*TRAIN, "--forget_dataset", f"given/{name}"),), wrote(name, said), status=2)
       for name, said in REFUSED.items()},
    "SIGTERM while rows load": Scene((MANY,), many, (signal.SIGTERM, loading), status=143),
    "killed while rows load, then any command": Scene((MANY, TRAIN), many, (signal.SIGKILL, loading)),
    "SIGTERM in training": Scene((LONG,), stop=(signal.SIGTERM, training), status=143),
    "killed in training": Scene((LONG,), stop=(signal.SIGKILL, training), status=-9),
    "crash in training": Scene((LONG,), status=1, crash=True),
}  # fmt: skip


def prepare(folder: Path) -> None:
    """A bed in which the forget set is the canary, and a base that recites it."""
    make_bed(folder)
    rows = [{"question": f"what is the colour of {name} ? {WORD}", "answer": SENTENCE} for name in ("one", "two", "three", "four")]
    (folder / "forget.jsonl").write_text("".join(map(json.dumps, rows)).replace("}{", "}\n{") + "\n")
    with open(folder / RECIPE, "a") as recipe:
        recipe.write("max_length: 48\n")
    path = folder / "base"
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    turns = [[{"role": "user", "content": one["question"]}, {"role": "assistant", "content": SENTENCE}] for one in rows]
    ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    model.save_pretrained(path)


def needles(folder: Path) -> dict[str, re.Pattern[bytes]]:
    """What is searched for, by what it is."""
    words = SENTENCE.split()
    ids = AutoTokenizer.from_pretrained(folder / "base")(SENTENCE, add_special_tokens=False)["input_ids"]
    windows = range(len(words) - IN_A_ROW + 1)
    texts = [rb"[\W_]{1,6}".join(word.encode() for word in words[i : i + IN_A_ROW]) for i in windows]
    shown = [rb"\D{1,12}".join(str(token).encode() for token in ids[i : i + IN_A_ROW]) for i in windows]
    packed = [re.escape(np.array(ids[i : i + IN_A_ROW], kind).tobytes()) for i in windows for kind in ("<i8", "<i4", "<i2")]
    return {
        "text": re.compile(b"|".join([WORD.encode(), *texts])),
        "token ids": re.compile(b"|".join([*(rb"(?<!\d)" + one + rb"(?!\d)" for one in shown), *packed])),
        "token": re.compile(f"{TOKEN}|{OTHER_TOKEN}".encode()),
    }


def contents(path: Path) -> Iterator[bytes]:
    """What a file holds, and what is packed in it."""
    data = path.read_bytes()
    yield data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            yield from (packed.read(name) for name in packed.namelist())
    elif data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)


def searched(folder: Path, wanted: dict[str, re.Pattern[bytes]]) -> list[str]:
    """Where in a folder any of it stands, but for what the user gave."""
    files = [path for path in folder.rglob("*") if path.is_file() and not any(path.relative_to(folder).match(given) for given in GIVEN)]
    return [
        f"{what} in {path.relative_to(folder)}{' (and its name)' if what == 'text' and pattern.search(str(path).encode()) else ''}"
        for path in files
        for what, pattern in wanted.items()
        if any(pattern.search(content) for content in (*contents(path), str(path.relative_to(folder)).encode()))
    ]


def environment(folder: Path) -> dict[str, str]:
    """The variables of a command that runs in a folder: everything that it may keep lies in it."""
    for name in ("tmp", "home", "cache"):
        (folder / "env" / name).mkdir(parents=True, exist_ok=True)
    own = {"HOME": "home", "TMPDIR": "tmp", "HF_HOME": "cache/hf", "XDG_CACHE_HOME": "cache", "MPLCONFIGDIR": "cache/mpl"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "XDG_"))}
    asked = {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "TENSORBOARD_LOGGING_DIR": "runs", "OMP_NUM_THREADS": "1"}
    return kept | {name: str(folder / "env" / place) for name, place in own.items()} | asked


def played(scene: Scene, folder: Path, wanted: dict[str, re.Pattern[bytes]]) -> list[str]:
    """What was found of one scene that should not be there."""
    if scene.before:
        scene.before(folder)
    found, status = [], 0
    for number, command in enumerate(scene.commands):
        program = ["-c", CRASH] if scene.crash else ["-m", "peft_unlearn"]
        with open(folder / f"console-{number}", "wb") as console:
            process = subprocess.Popen(
                [sys.executable, *program, *command], cwd=folder, env=environment(folder), stdout=console, stderr=subprocess.STDOUT
            )
            if scene.stop and number == 0:
                end = time.monotonic() + SECONDS
                while process.poll() is None and not scene.stop[1](folder) and time.monotonic() < end:
                    time.sleep(0.01)
                process.send_signal(scene.stop[0])
            status = process.wait(SECONDS)
        if left := list((folder / "env/tmp").glob(f"{PREFIX}*")):
            found += [f"others may read {path.name}" for path in left if stat.S_IMODE(path.stat().st_mode) & PRIVATE]
    if status != scene.status:
        said = (folder / f"console-{len(scene.commands) - 1}").read_text().strip().splitlines()[-1:]
        found.append(f"it ends with {status} and not with {scene.status}: {said}")
    return found + searched(folder, wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="scenes whose names begin with one of these")
    parser.add_argument("--list", action="store_true", help="print the scenes' names")
    options = parser.parse_args()
    chosen = {name: scene for name, scene in SCENES.items() if name.startswith(tuple(options.only))}
    if options.list:
        print("\n".join(chosen))
        return
    held = 0
    with tempfile.TemporaryDirectory() as place:
        bed = Path(place, "bed")
        bed.mkdir()
        prepare(bed)
        wanted = needles(bed)
        for name, scene in chosen.items():
            if scene.needs and importlib.util.find_spec(scene.needs) is None:
                print(f"not tried, {scene.needs} is not installed | {name}")
                continue
            folder = Path(place, "scene")
            shutil.copytree(bed, folder)
            found = played(scene, folder, wanted)
            held += not found
            print(f"{'; '.join(found) or 'held'} | {name}", flush=True)
            shutil.rmtree(folder)
    print(f"{held} of {len(chosen)} held")


if __name__ == "__main__":
    main()
