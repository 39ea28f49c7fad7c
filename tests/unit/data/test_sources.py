import csv
import gzip
import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from peft_unlearn.config.dataset_names import DATASET_NAMES
from peft_unlearn.config.dataset_specs import load_arguments
from peft_unlearn.data import load
from peft_unlearn.util.errors import UserError

ROWS = [{"question": f"Who lives at {n} Hill Road?", "answer": f"Ann {n}, 007 and None"} for n in range(5)]


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A place of our own for what `datasets` caches, to look into afterwards."""
    cache = tmp_path / "hub-cache"
    cache.mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", cache / "downloads")
    return cache


def write(path, rows=ROWS):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".jsonl":
        path.write_text(lines)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        path.write_text("question,answer\n" + "".join(f'"{row["question"]}","{row["answer"]}"\n' for row in rows))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("file", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "rows.jsonl.gz"])
def test_local_formats_load_the_same_rows_and_leave_no_cache(file, tmp_path, hub_cache, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    dataset = load(str(write(tmp_path / file)), name="forget_dataset")
    assert dataset.to_list() == ROWS
    assert dataset.cache_files == []
    assert list(hub_cache.rglob("*")) == []
    assert list(temporary.rglob("*")) == []


def test_a_text_file_may_hold_a_text_a_line_without_the_blank_ones(tmp_path):
    (tmp_path / "a.txt").write_text("first line\n\n  \nsecond line\nthird line\n")
    by_line, by_paragraph = ({"path": str(tmp_path / "a.txt"), "sample_by": unit} for unit in ("line", "paragraph"))
    assert load(by_line, name="forget_dataset")["text"][:] == ["first line", "second line", "third line"]
    assert load(by_paragraph, name="forget_dataset")["text"][:] == ["first line", "second line\nthird line"]


def test_numbers_in_a_csv_stay_the_text_they_are(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer,id\nWhich year?,1990,1\nWhich agent?,007,2\nWho came?,None,3\n")
    assert load(str(tmp_path / "a.csv"), name="forget_dataset")["answer"][:] == ["1990", "007", "None"]


def test_mapping_takes_splits_slices_folders_and_globs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "rows.jsonl")
    assert load("folder", name="x").to_list() == ROWS
    assert load({"path": "folder/rows.jsonl", "split": "train[1:3]"}, name="x").to_list() == ROWS[1:3]
    assert load({"path": "json", "data_files": {"test": "folder/*.jsonl"}, "split": "test"}, name="x").to_list() == ROWS


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nowhere.jsonl", "nowhere.jsonl does not exist"),
        ({"hf_args": {"path": "locuslab/TOFU"}}, "hf_args is another tool's key, write its own keys, path, name and split, in its place"),
        ({"path": "story.jsonl", "text_key": "story"}, "text_key is another tool's key, write rename_columns: {its name: question}"),
        ({"path": "story.jsonl", "rename_columns": "story"}, "rename_columns is 'story', write {its name: the name it shall have}"),
        ({"path": "story.jsonl", "rename_columns": {"tale": "text"}}, "there is no column 'tale', write one that the rows have"),
        ({"path": "story.jsonl", "rename_columns": {"a": "text", "b": "text"}}, "gives two columns one name"),
        ("preferred.jsonl", r"write rename_columns: {chosen: completion} or {rejected: completion}"),
        ("./nowhere", "nowhere does not exist"),
        ("rows.xlsx", "unknown extension, it must be one of .json, .jsonl"),
        ("no/such-set-on-the-hub", "cannot load no/such-set-on-the-hub"),
        ({"path": "rows.jsonl", "splitt": "train"}, "'splitt' is not a key of a dataset, did you mean 'split'"),
        ({"path": "rows.jsonl", "streaming": True}, "'streaming' is not a key"),
        ({"path": "rows.jsonl", "split": 3}, "split is 3"),
        ({"path": "rows.jsonl", "split": "test"}, r"Unknown split .test."),
        ({"split": "train"}, "path is missing"),
        ({"path": "json", "data_files": "nowhere.jsonl"}, "nowhere.jsonl"),
        ("empty.jsonl", "empty.jsonl holds no rows, write at least one into it"),
        ("empty.json", "empty.json holds no rows, write at least one into it"),
        ("blank.txt", "the set has no rows, give at least one"),
        ("broken.jsonl", r"cannot load broken.jsonl \(line 2 is not JSON\), mend or remove it: each line must be one JSON object"),
        ("list.jsonl", r"cannot load list.jsonl \(line 3 is no JSON object\), mend or remove it: each line must be one JSON object"),
        ("lists.jsonl", r"cannot load lists.jsonl \(line 1 is no JSON object\), mend or remove it"),
        ("broken.parquet", "cannot load broken.parquet"),
        ("binary.txt", "cannot load binary.txt .*utf-8"),
        ("story.jsonl", "none of its 1 columns is text, prompt and completion, .*; name them so"),
        ("half.jsonl", "column 'answer' is missing beside question"),
        ("null.jsonl", r"cannot load null.jsonl \(line 2 is null and no JSON object\), mend or remove it"),
        ({"path": "json", "data_files": "nul*.jsonl"}, r"\(line 2 is null and no JSON object\)"),
        ("none.jsonl", "row 2: answer is missing"),
        ("spaces.jsonl", "row 2: text is empty"),
        ("number.jsonl", "row 1: text is not text"),
        ("turns.jsonl", "row 2: the conversation must end with an assistant turn"),
        ("roles.jsonl", "row 1: messages is not a list of messages"),
    ],
)
def test_bad_sources_are_told_in_one_sentence(spec, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl")
    (tmp_path / "rows.xlsx").write_text("x")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "null.jsonl").write_text('\n\ufeff null {"text": "a"}\n')  # which pyarrow dies of
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "broken.jsonl").write_text('{"text": "SECRET one"}\n{"text": "SECRET two"} and more\n')
    write(tmp_path / "list.jsonl", [{"text": "SECRET"}, {"text": "SECRET"}, ["SECRET"], {"text": "SECRET"}])
    write(tmp_path / "lists.jsonl", [["SECRET"], ["SECRET"]])
    (tmp_path / "broken.parquet").write_text("garbage")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    write(tmp_path / "story.jsonl", [{"story": "SECRET"}])
    write(tmp_path / "preferred.jsonl", [{"prompt": "SECRET?", "chosen": "SECRET", "rejected": "SECRET"}])
    write(tmp_path / "half.jsonl", [{"question": "SECRET?"}])
    write(tmp_path / "none.jsonl", [{"question": "SECRET?", "answer": "a"}, {"question": "SECRET?", "answer": None}])
    write(tmp_path / "spaces.jsonl", [{"text": "SECRET"}, {"text": " \n"}])
    write(tmp_path / "number.jsonl", [{"text": 3}])
    user, assistant = {"role": "user", "content": "SECRET?"}, {"role": "assistant", "content": "SECRET"}
    write(tmp_path / "turns.jsonl", [{"messages": [user, assistant]}, {"messages": [user, assistant, user]}])
    write(tmp_path / "roles.jsonl", [{"messages": [{"content": "SECRET"}]}])
    with pytest.raises(UserError, match=says) as caught:
        load(spec, name="forget_dataset")
    assert str(caught.value).startswith("forget_dataset: ")
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["rows.jsonl", "rows.csv"])
def test_columns_of_other_names_are_renamed(file, tmp_path):
    """Also where the name is taken, as in a set whose other answers are read in place of its own; numbers stay the text they are."""
    rows = [{"question": "Who?", "answer": "Ann", "gt": "007"}]
    if file.endswith("csv"):
        (tmp_path / file).write_text("question,answer,gt\nWho?,Ann,007\n")
    else:
        write(tmp_path / file, rows)
    spec = {"path": str(tmp_path / file), "rename_columns": {"gt": "answer"}}
    assert load(spec, name="x").to_list() == [{"question": "Who?", "answer": "007"}]


@pytest.mark.parametrize("name", DATASET_NAMES)
def test_a_name_of_openunlearning_is_its_place_on_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = load_arguments(name, "x")
    assert arguments["path"] in ("locuslab/TOFU", "muse-bench/MUSE-News")
    assert load_arguments({"path": name, "split": "train[:9]"}, "x") == arguments | {"split": "train[:9]"}
    (tmp_path / name).mkdir()
    assert load_arguments(name, "x")["path"] == name


def test_how_rows_are_read_is_told(tmp_path, caplog):
    path = write(tmp_path / "rows.jsonl", [{"instruction": "Who?", "input": "", "output": "Ann"}] * 3)
    write(tmp_path / "more.jsonl")
    with caplog.at_level("INFO"):
        load(str(path), name="forget_dataset")
        load(str(tmp_path / "more.jsonl"), name="retain_dataset")
    assert "forget_dataset: 3 rows, read as Alpaca" in caplog.text
    assert "retain_dataset: 5 rows, read as question and answer" in caplog.text


PROMPT = {"prompt": "SECRET?", "completion": "SECRET"}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([*ROWS, PROMPT, PROMPT], "row 6 has prompt, completion and row 1 has question, answer, write all rows in one of the two ways."),
        ([PROMPT, *ROWS], "row 1 has prompt, completion and row 2 has question, answer"),
        ([PROMPT, ROWS[0]], "row 2 has question, answer and row 1 has prompt, completion"),
        ([*ROWS, {"text": "SECRET"}], "row 6 has text and row 1 has question, answer"),
        ([*ROWS, {"question": "SECRET?"}, PROMPT], "row 7 has prompt, completion and row 1 has question, answer"),
        ([ROWS[0] | PROMPT, ROWS[0] | {"completion": "SECRET"}], "row 2 has question, answer and row 1 has prompt, completion"),
        ([PROMPT, PROMPT | {"completion": None}, PROMPT | {"text": "SECRET"}], "row 2: completion is "),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_row_of_another_format_than_the_others_is_the_one_that_is_named(kind, rows, says, tmp_path):
    """A loader gives every row the columns of all, empty where it brought none itself."""
    file = write(tmp_path / "rows.jsonl", rows)
    if kind == "csv":
        file = tmp_path / "rows.csv"
        with file.open("w") as lines:
            table = csv.DictWriter(lines, dict.fromkeys(column for row in rows for column in row))
            table.writeheader()
            table.writerows(rows)
    with pytest.raises(UserError) as caught:
        load(str(file), name="forget_dataset")
    assert str(caught.value).startswith(f"forget_dataset: {says}")
    assert "SECRET" not in str(caught.value)


def test_a_set_whose_rows_fill_several_formats_is_read_as_the_first(tmp_path):
    load(str(write(tmp_path / "rows.jsonl", [PROMPT | {"text": "more"}, PROMPT])), name="forget_dataset")


@pytest.mark.parametrize("file", ["latin.jsonl", "latin.txt", "latin.csv"])
def test_a_file_that_is_not_utf_8_is_told_in_one_sentence(file, tmp_path):
    text = {".jsonl": '{"text": "Zoë"}\n', ".txt": "Zoë\n", ".csv": "text\nZoë\n"}[Path(file).suffix]
    (tmp_path / file).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=f"^forget_dataset: .*{file}"):
        load(str(tmp_path / file), name="forget_dataset")
