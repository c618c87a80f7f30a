"""Finding the files of a corpus."""

import os

import pytest

from foundry_config.errors import DataError
from foundry_data.documents import ReadReport, ReadSettings
from foundry_data.readers import list_sources
from foundry_data.sources import check_unchanged, find_files, split_suffix


def names(source, **options):
    return [file.name for file in list_sources(source, **options)]


def test_a_folder_is_read_to_its_depth_sorted_by_the_parts_of_the_paths(tmp_path):
    for name in ("b/2.txt", "b/10.txt", "b-side.txt", "a.jsonl", "b/c/1.txt", "Z.txt", "é.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    assert names(tmp_path) == ["Z.txt", "a.jsonl", "b/10.txt", "b/2.txt", "b/c/1.txt", "b-side.txt", "é.txt"]


def test_files_of_unknown_suffix_are_counted_and_hidden_ones_passed_over(tmp_path):
    for name in ("a.txt", "b.csv", "c.CSV", "notes", ".hidden.txt", ".git/config.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    report = ReadReport()

    files = list_sources(tmp_path, report=report)

    assert [file.name for file in files] == ["a.txt"]
    assert report.ignored_files == {".csv": 2, "no suffix": 1}
    assert "3 files ignored (.csv 2, no suffix 1)" in str(report)


def test_special_files_in_a_folder_are_counted_not_opened(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    os.mkfifo(tmp_path / "pipe.txt")
    report = ReadReport()

    files = list_sources(tmp_path, report=report)

    assert [file.name for file in files] == ["a.txt"]
    assert report.ignored_files == {"a FIFO": 1}


def test_links_are_followed_and_loops_end(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("text")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "real" / "dangling.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.txt").symlink_to(tmp_path / "real" / "a.txt")

    report = ReadReport()
    assert names(tmp_path, report=report) == ["b.txt"]  # the same bytes as real/a.txt
    assert report.ignored_files == {"link to nothing": 1}


@pytest.mark.parametrize("pattern", ["*", pytest.param("**", marks=pytest.mark.slow), "**/*.txt", "*/*.txt"])
def test_a_glob_reaches_every_file_once_and_passes_over_links_that_lead_nowhere(tmp_path, pattern):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("text")
    (tmp_path / "real" / "b.txt").write_text("text of b")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "real" / "dangling.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")

    report, settings = ReadReport(), ReadSettings(duplicate_files="keep")
    assert names(f"{tmp_path}/{pattern}", settings=settings, report=report) == ["real/a.txt", "real/b.txt"]
    assert report.ignored_files.get("link to nothing", 0) >= 1


def test_a_folder_of_links_to_nothing_says_so(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "not fetched")

    with pytest.raises(DataError, match=r"no readable text in .* \(link to nothing 1 ignored\)"):
        names(tmp_path)


def test_excluded_folders_and_files_are_left_out(tmp_path):
    for name in ("a.txt", "prepared/b.txt", "prepared/deep/c.txt", "d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    (tmp_path / "prepared" / "dataset_dict.json").write_text("not even looked at")

    assert names(tmp_path, exclude=[tmp_path / "prepared", tmp_path / "d.txt"]) == ["a.txt"]
    assert names(f"{tmp_path}/*", exclude=[tmp_path / "prepared", tmp_path / "d.txt"]) == ["a.txt"]


def test_a_glob_finds_files_and_folders(tmp_path):
    for name in ("x/1.txt", "y/2.txt", "y/3.csv", "z.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    assert names(f"{tmp_path}/[xy]") == ["x/1.txt", "y/2.txt"]
    assert names(f"{tmp_path}/**/*.txt") == ["x/1.txt", "y/2.txt", "z.txt"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path):
    (tmp_path / "a[1].txt").write_text("text")

    assert names(tmp_path / "a[1].txt") == ["a[1].txt"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", (".txt", "")),
        ("A.JSONL.GZ", (".jsonl", ".gz")),
        ("a.b.txt.zst", (".txt", ".zst")),
        ("a.gz", ("", ".gz")),
        ("noext", ("", "")),
        (".txt", ("", "")),
    ],
)
def test_split_suffix_tells_format_and_compression(name, expected):
    assert split_suffix(name) == expected


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("missing.txt", "there is no"),
        ("corpus/mon.txt", "Did you mean 'moon.txt'?"),
        ("corpus/*.md", "no readable text"),
        ("corpus/table.csv", ".csv 1 ignored"),
        ("empty", "files of these kinds are read: .txt"),
        ("pipe", "is a FIFO, not a regular file"),
        ("nul\0.txt", "NUL character"),
        ("dangling.txt", "No such file"),
    ],
)
def test_a_source_without_text_is_refused_with_advice(tmp_path, monkeypatch, source, said):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "corpus" / "moon.txt").write_text("text")
    (tmp_path / "corpus" / "table.csv").write_text("text")
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(DataError) as caught:
        list_sources(tmp_path / source)

    assert said in str(caught.value)
    assert "\0" not in str(caught.value)


def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)

    with pytest.raises(DataError, match=r"cannot list '.*locked': Permission denied"):
        list_sources(tmp_path)


def test_digest_is_the_sha256_of_the_bytes_on_disk(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc")

    (file,) = list_sources(tmp_path)

    assert file.digest() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digest_of_a_file_that_changed_since_it_was_found_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc")
    (file,) = list_sources(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"abcd")

    with pytest.raises(DataError, match=r"a\.txt changed while it was read \(3 bytes before, 4 now\)"):
        file.digest()


def test_a_file_that_vanished_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abc")
    (file,) = list_sources(tmp_path)
    (tmp_path / "a.txt").unlink()

    with pytest.raises(DataError, match=r"cannot read .*a\.txt"):
        file.digest()
    with pytest.raises(DataError, match=r"cannot read .*a\.txt"):
        check_unchanged(file)


def test_control_characters_of_names_never_reach_a_message(tmp_path):
    (tmp_path / "a\x1b[31m\n.csv").write_text("x")
    (tmp_path / "b\x1b[31m.txt").write_text("text")

    (file,) = list_sources(tmp_path)
    with pytest.raises(DataError) as caught:
        list_sources(tmp_path / "a\x1b[31m\n.csv")

    assert file.label == "b\\x1b[31m.txt"
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_of_runs_below_a_corpus_are_left_out_and_counted(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    for name, content in {"run.json": '{"created":"x","format":"foundry.run/1"}', "metrics.jsonl": "{}"}.items():
        path = tmp_path / "runs" / "one" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('{"text": "of a corpus"}')
    report = ReadReport()

    found = find_files(tmp_path, suffixes=[".txt", ".json", ".jsonl"], report=report)

    assert [file.name for file in found] == ["a.txt", "other/run.json"]
    assert report.ignored_files == {"run folder": 1}


def test_what_the_source_lies_in_is_never_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("text")

    assert [file.name for file in list_sources(tmp_path, exclude=[tmp_path.parent])] == ["a.txt"]
    assert [file.name for file in list_sources(tmp_path / "a.txt", exclude=[tmp_path])] == ["a.txt"]


def test_of_a_saved_dataset_only_the_files_in_its_index_are_read(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "b.arrow"}, {"filename": "a.arrow"}]}')
    (tmp_path / "a.arrow").write_bytes(b"1")
    (tmp_path / "b.arrow").write_bytes(b"2")
    (tmp_path / "cache-1.arrow").write_bytes(b"3")

    assert names(tmp_path) == ["a.arrow", "b.arrow"]


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ('{"_data_files": [{"filename": "../a.arrow"}]}', "outside its folder"),
        ("{", "is damaged"),
        ('{"_data_files": 3}', "is damaged"),
    ],
)
def test_a_damaged_index_of_a_saved_dataset_is_refused(tmp_path, index, said):
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text(index)

    with pytest.raises(DataError, match=said):
        list_sources(tmp_path)


def test_a_saved_dataset_with_splits_asks_for_one(tmp_path):
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    (tmp_path / "train").mkdir()

    with pytest.raises(DataError, match=r"several splits.*train"):
        list_sources(tmp_path)

    (tmp_path / "train").rmdir()
    with pytest.raises(DataError, match="without any split"):
        list_sources(tmp_path)


@pytest.mark.parametrize("policy", ["skip", "keep", "refuse"])
def test_duplicate_files_are_treated_as_the_policy_says(tmp_path, policy):
    for name, text in (("a.txt", "same"), ("b.txt", "othe"), ("c.txt", "same"), ("d.jsonl", "same")):
        (tmp_path / name).write_text(text)
    report = ReadReport()
    settings = ReadSettings(duplicate_files=policy)

    if policy == "refuse":
        with pytest.raises(DataError, match=r"c\.txt has the same bytes as a\.txt"):
            list_sources(tmp_path, settings=settings, report=report)
        return
    files = list_sources(tmp_path, settings=settings, report=report)

    assert [file.name for file in files] == (
        ["a.txt", "b.txt", "d.jsonl"] if policy == "skip" else ["a.txt", "b.txt", "c.txt", "d.jsonl"]
    )
    assert report.duplicate_files == (["c.txt"] if policy == "skip" else [])
