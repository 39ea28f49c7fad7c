"""What the how-tos add stands in the tables of the docs, which are made from the registries of whoever builds them."""

import os
import subprocess
import sys

from howto import ROOT, install

PAGES = {"losses": "add-a-loss.md", "combine": "add-a-combiner.md", "metrics": "add-a-metric.md", "attacks": "add-an-attack.md"}


def test_parts_of_another_package_stand_in_the_tables_of_the_docs(tmp_path):
    names = {}
    for room, page in PAGES.items():
        install(page, tmp_path)
        points = next(tmp_path.glob(f"*{page.rsplit('-', 1)[1][:4]}*.dist-info/entry_points.txt")).read_text()
        names[room] = points.splitlines()[1].split(" = ")[0]
    install("add-a-method.md", tmp_path)
    source = tmp_path / "docs"
    source.mkdir()
    (source / "conf.py").write_text("extensions = ['myst_parser', 'package_tables']\n")
    tables = [f"```{{parts}} {room}\n```\n" for room in PAGES]
    (source / "index.md").write_text("# Parts\n\n" + "\n".join([*tables, "```{methods}\n```\n"]))
    path = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "docs/_ext")))
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(source), str(tmp_path / "site")],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    for name in (*names.values(), "gentle"):
        assert f">{name}<" in page
