"""Receipts of ablations in the folder of a run."""

import logging

from foundry_train.kept_receipts import keep_receipts


def receipts_in(folder):
    paths = [folder / "receipts" / "00-lowercase.json", folder / "receipts" / "replacement" / "00-lowercase.json"]
    paths[1].parent.mkdir(parents=True)
    for number, path in enumerate(paths):
        path.write_text(str(number))
    return paths


def test_receipts_are_copied_with_the_folders_below(tmp_path):
    keep_receipts(tmp_path / "run", receipts_in(tmp_path / "receipts" / "text-1"))

    kept = tmp_path / "run" / "receipts"
    assert (kept / "00-lowercase.json").read_text() == "0"
    assert (kept / "replacement" / "00-lowercase.json").read_text() == "1"


def test_what_is_there_already_is_not_written_again(tmp_path):
    paths = receipts_in(tmp_path / "text-1")
    keep_receipts(tmp_path / "run", paths)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}

    keep_receipts(tmp_path / "run", paths)

    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_disk_that_refuses_is_a_warning(tmp_path, caplog):
    (tmp_path / "run").write_text("a file where the run should be")

    with caplog.at_level(logging.WARNING):
        keep_receipts(tmp_path / "run", receipts_in(tmp_path / "text-1"))

    assert caplog.text.count("could not be written") == 2
