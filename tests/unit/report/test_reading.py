"""A report is read back as it was written, and a file that is none is refused in a sentence before anybody works with it."""

import copy
import json

import pytest

from peft_unlearn import report
from peft_unlearn.util.errors import UserError

ENTRY = {"mean": 0.5, "n": 2, "rows": [0.25, 0.75]}
RESULTS = {"forget": {view: {"probability": ENTRY} for view in ("before", "after")}}
RUN = {"settings": {"method": "npo", "forget_loss": "npo"}, "steps": 5, "quantization": None}


@pytest.fixture
def written(tmp_path):
    made = report.build(RESULTS, RUN, curve=[{"step": 1, "p_forget": 0.5, "p_retain": 0.5}])
    report.write(made, tmp_path / "report.json")
    return made


def test_a_report_is_read_as_it_was_written(written, tmp_path):
    assert report.read(tmp_path / "report.json") == json.loads(json.dumps(written))


WRONG = [
    ("run", "x"), ("run", {"settings": []}), ("run", {"settings": {"method": "nope"}, "steps": 5}), ("run", {"settings": RUN["settings"]}),
    ("run", {**RUN, "stopped": 5}),
    ("run", {**RUN, "returned": [5]}), ("run", {**RUN, "missed": {"a": None}}), ("run", {**RUN, "retain_kl_max": {"of": 3}}),
    ("run", {**RUN, "settings": {"method": "npo", "forget_loss": ["npo"]}}), ("curve", None), ("curve", [5]),
    ("curve", [{"step": "x"}]), ("results", None), ("results", {"forget": []}), ("results", {"forget": {"after": [5]}}),
    ("results", {"forget": {"after": {"probability": {"mean": 0.5, "n": 2}}}}), ("never_seen", None), ("never_seen", {"kind": "x", "name": None}),
    *(("results", {"forget": {"after": {"probability": {**ENTRY, key: value}}}}) for key, value in
      (("mean", "x"), ("n", None), ("rows", ["x"]), ("rows", 5), ("interval", 5), ("interval", [1]), ("layers", [None, "x"]))),
]  # fmt: skip


@pytest.mark.parametrize(("part", "value"), WRONG, ids=str)
def test_a_part_that_no_report_has_is_told_by_its_name(part, value, written, tmp_path):
    found = copy.deepcopy(written) | {part: value}
    (tmp_path / "report.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=rf"report\.json: this is no report, its '{part}' is not"):
        report.read(tmp_path / "report.json")
