"""Files, folders and hub data sets become examples, or one line that says what to mend."""

import csv
import gzip
import json
import time

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from fedllm.config import SourceConfig
from fedllm.data.sources import load_source, read_source
from fedllm.errors import DataError

ROWS = [
    {"instruction": "Add 2 and 3.", "input": "", "output": "5"},
    {"instruction": "Name a colour.", "input": "Not red.\nNot „grün“.", "output": "blue, or so"},
    {"instruction": "Say nothing twice.", "input": "", "output": "nothing nothing"},
]


def load(root, path, **settings):
    return load_source(SourceConfig(path=path, **settings), root, seed=0, role="private")


def fault(root, path, **settings):
    with pytest.raises(DataError) as caught:
        load(root, path, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def as_json(rows):
    return json.dumps(rows, ensure_ascii=False, indent=1).encode()


def as_lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def as_object(rows):
    return json.dumps({f"id-{i}": row for i, row in enumerate(rows)}).encode()


def as_wrapped(rows):
    return json.dumps({"version": "1", "data": rows}).encode()


def as_splits(rows):
    return json.dumps({"test": rows[:1], "train": rows}).encode()


def as_columns(rows):
    return json.dumps({name: [row[name] for row in rows] for name in rows[0]}).encode()


def as_pandas(rows):
    return json.dumps(
        {name: {str(i): row[name] for i, row in enumerate(rows)} for name in rows[0]}
    ).encode()


def as_csv(rows, delimiter=","):
    import io

    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows):
    import io

    buffer = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


FORMATS = {
    "array.json": as_json,
    "lines.json": as_lines,
    "lines.jsonl": as_lines,
    "lines.ndjson": as_lines,
    "array.jsonl": as_json,
    "object.json": as_object,
    "wrapped.json": as_wrapped,
    "splits.json": as_splits,
    "columns.json": as_columns,
    "pandas.json": as_pandas,
    "table.csv": as_csv,
    "table.tsv": lambda rows: as_csv(rows, "\t"),
    "semicolon.csv": lambda rows: as_csv(rows, ";"),
    "marked.csv": lambda rows: b"\xef\xbb\xbf" + as_csv(rows),
    "table.parquet": as_parquet,
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_examples(tmp_path, name, zipped):
    data = FORMATS[name](ROWS)
    name = f"{name}.gz" if zipped else name
    (tmp_path / name).write_bytes(gzip.compress(data) if zipped else data)
    examples = load(tmp_path, name)
    got = [(e.instruction, e.input, e.output) for e in examples]
    assert got == [(row["instruction"], row["input"], row["output"]) for row in ROWS]
    assert all(e.source.startswith(f"{name}:") for e in examples)
    assert {e.domain for e in examples} == {name.split(".")[0]}


def test_places_are_lines_of_text_files_and_numbers_of_records_elsewhere(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n" + as_lines(ROWS))
    (tmp_path / "a.csv").write_bytes(as_csv(ROWS))
    (tmp_path / "a.json").write_bytes(as_json(ROWS))
    places = {
        name: [e.source.split(":")[1] for e in load(tmp_path, name)]
        for name in ("a.jsonl", "a.csv", "a.json")
    }
    # The second CSV record holds a line break, so the third starts one line later.
    assert places == {
        "a.jsonl": ["2", "3", "4"],
        "a.csv": ["2", "3", "5"],
        "a.json": ["1", "2", "3"],
    }


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("a.csv", ",instruction,output,\n0,i,o,\n", {}),
        ("a.csv", " ,,\n,instruction,output\n0,i,o\n", {}),
        ("a.csv", ",,\n0,i,o\n", {"instruction": "1", "output": "2"}),
        ("a.csv", "sep=;\ninstruction;output\ni;o\n", {}),
        ("a.csv", '\ufeff"SEP=|"\r\ninstruction|output\r\ni|o\r\n', {}),
        ("a.csv", 'instruction;output;"note, if any"\ni;o;\n', {}),
        ("a.csv", "instruction;note, or, none;output\ni;n, m;o\n", {}),
        ("a.tsv", "instruction\tnote, if any\toutput\ni\tn\to\n", {}),
        ("a.tsv", "i\to\n", {"instruction": "0", "output": "1"}),
        ("a.csv", "i;o, or p\nj;o\n", {"instruction": "0", "output": "1"}),
    ],
)
def test_separators_and_names_are_found_in_any_header(tmp_path, name, text, columns):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    first = load(tmp_path, name, columns=columns)[0]
    assert (first.instruction, first.output[0]) == ("i", "o")


def test_a_stated_separator_counts_as_a_line(tmp_path):
    (tmp_path / "a.csv").write_text("sep=;\nprompt;completion\na;b\nc;d;e\n")
    assert fault(tmp_path, "a.csv").startswith("a.csv:4: 3 fields")


def test_byte_order_marks_of_files_that_were_put_together_are_skipped(tmp_path):
    marked = b"\xef\xbb\xbf" + as_lines(ROWS)
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + marked + b"\n" + marked)
    loaded = read_source(SourceConfig(path="a.jsonl"), tmp_path, seed=0, role="private")
    assert (loaded.rows, len(loaded.examples)) == (6, 3)


def test_a_parquet_text_that_is_no_text_is_one_line(tmp_path):
    wrong = arrow.array([b"\xff\xfeSECRET"]).view(arrow.string())
    table = arrow.table({"instruction": ["i"], "output": wrong})
    parquet.write_table(table, tmp_path / "a.parquet")
    message = fault(tmp_path, "a.parquet")
    assert "a.parquet: holds a value that cannot be read" in message and "SECRET" not in message


def test_a_line_separator_inside_a_json_string_does_not_end_the_row(tmp_path):
    row = {"instruction": "Say\u2028it.", "output": "it\x85"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [e.instruction for e in load(tmp_path, "a.jsonl")] == ["Say\u2028it."]


def test_a_folder_and_a_pattern_read_their_files_in_name_order(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for i, row in enumerate(ROWS):
        (folder / f"part-{i}.jsonl").write_bytes(as_lines([row]))
    (folder / "notes.txt").write_text("nothing to read")
    whole = load(tmp_path, "parts")
    assert [e.source for e in whole] == [f"parts/part-{i}.jsonl:1" for i in range(3)]
    assert {e.domain for e in whole} == {"parts"}
    assert load(tmp_path, "parts/part-[01]*.jsonl") == [
        type(e)(**{**{f: getattr(e, f) for f in e.__slots__}, "domain": "part-[01]*"})
        for e in whole[:2]
    ]


def test_a_folder_without_data_files_says_which_it_reads(tmp_path):
    (tmp_path / "docs").mkdir()
    assert "the folder holds no .json, .jsonl" in fault(tmp_path, "docs")
    assert "does not exist" in fault(tmp_path, "docs/*.csv")


def test_split_and_subset_are_refused_where_they_choose_nothing(tmp_path):
    for name in ("splits.json", "array.json", "lines.jsonl", "table.csv"):
        (tmp_path / name).write_bytes(FORMATS[name](ROWS))
    assert len(load(tmp_path, "splits.json", split="test")) == 1
    for name in ("splits.json", "array.json", "lines.jsonl", "table.csv"):
        assert "has no split 'dev'" in fault(tmp_path, name, split="dev")
    assert "subset has no effect" in fault(tmp_path, "table.csv", subset="main")


def test_a_cell_of_any_length_is_read(tmp_path):
    rows = [{"prompt": "Repeat.", "completion": "word " * 60_000}]
    (tmp_path / "a.csv").write_bytes(as_csv(rows))
    assert len(load(tmp_path, "a.csv")[0].output) > 131_072
    assert csv.field_size_limit() == 131_072


def test_where_keeps_matching_rows_and_reads_csv_numbers_as_numbers(tmp_path):
    rows = [{**ROWS[i % 3], "tier": 50 * (i + 1), "kept": i != 1} for i in range(3)]
    (tmp_path / "a.csv").write_bytes(as_csv(rows))
    (tmp_path / "a.json").write_bytes(as_json(rows))
    for name in ("a.csv", "a.json"):
        assert [e.output for e in load(tmp_path, name, where={"tier": 100})] == ["blue, or so"]
        assert len(load(tmp_path, name, where={"kept": True})) == 2
    assert "where.color names no column" in fault(tmp_path, "a.csv", where={"color": "x"})
    assert "leaves none of 3 rows" in fault(tmp_path, "a.csv", where={"tier": 7})


def test_rows_of_several_splits_are_kept_apart(tmp_path):
    rows = [
        {**row, "Split": split} for row, split in zip(ROWS, ("Test", "train", "x"), strict=True)
    ]
    (tmp_path / "a.jsonl").write_bytes(as_lines(rows))
    message = fault(tmp_path, "a.jsonl")
    assert "where: {Split: train}" in message and "ignore: [Split]" in message
    assert len(load(tmp_path, "a.jsonl", where={"Split": "train"})) == 1
    assert len(load(tmp_path, "a.jsonl", ignore=["Split"])) == 3
    (tmp_path / "b.jsonl").write_bytes(as_lines(rows[1:]))
    assert len(load(tmp_path, "b.jsonl")) == 2


def test_limit_draws_from_the_seed_and_keeps_the_order_of_the_file(tmp_path):
    rows = [{"prompt": f"Number {i}", "completion": str(i)} for i in range(50)]
    (tmp_path / "a.jsonl").write_bytes(as_lines(rows))
    source = SourceConfig(path="a.jsonl", limit=10)
    draws = [
        [int(e.output) for e in load_source(source, tmp_path, seed=seed, role="private")]
        for seed in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert all(draw == sorted(set(draw)) and len(draw) == 10 for draw in draws)
    assert len(load(tmp_path, "a.jsonl", limit=99)) == 50


def test_exact_duplicates_are_counted_and_removed_but_owners_keep_theirs(tmp_path):
    rows = [{**row, "client": owner} for owner in ("a", "b") for row in [*ROWS, ROWS[0]]]
    (tmp_path / "a.jsonl").write_bytes(as_lines(rows))
    loaded = read_source(SourceConfig(path="a.jsonl"), tmp_path, seed=0, role="private")
    assert (loaded.rows, loaded.duplicates, len(loaded.examples)) == (8, 2, 6)
    assert [e.owner for e in loaded.examples] == ["a"] * 3 + ["b"] * 3


def test_domain_comes_from_the_source_then_the_column_then_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(as_lines([{**row, "field": "law"} for row in ROWS]))
    assert load(tmp_path, "a.jsonl")[0].domain == "a"
    assert load(tmp_path, "a.jsonl", columns={"domain": "field"})[0].domain == "law"
    assert load(tmp_path, "a.jsonl", columns={"domain": "field"}, domain="x")[0].domain == "x"
    (tmp_path / "b.jsonl").write_bytes(
        as_lines([{**ROWS[0], "domain": "law"}, {**ROWS[1], "domain": None}])
    )
    assert [e.domain for e in load(tmp_path, "b.jsonl")] == ["law", "b"]
    assert load(tmp_path, "b.jsonl", domain="x")[0].domain == "x"
    assert load(tmp_path, "b.jsonl", ignore=["domain"])[0].domain == "b"


def test_sample_domains_come_by_name_and_differ_between_roles(tmp_path):
    source = SourceConfig(path="samples:math", limit=20)
    parts = {r: load_source(source, tmp_path, seed=3, role=r) for r in ("private", "test")}
    assert all(len(part) == 20 for part in parts.values())
    assert not {e.query for e in parts["private"]} & {e.query for e in parts["test"]}
    public = SourceConfig(path="samples:public", limit=20)
    assert len(load_source(public, tmp_path, seed=3, role="public")) == 20
    assert "set its limit" in fault(tmp_path, "samples:math")
    assert "cannot be a private source" in fault(tmp_path, "samples:public", limit=5)
    assert "columns has no effect" in fault(tmp_path, "samples:math", columns={"input": "x"})


def test_twenty_thousand_rows_load_in_seconds(tmp_path):
    rows = [
        {"instruction": f"Question {i}?", "input": "x" * 200, "output": "y"} for i in range(20_000)
    ]
    (tmp_path / "a.jsonl").write_bytes(as_lines(rows))
    start = time.perf_counter()
    assert len(load(tmp_path, "a.jsonl")) == 20_000
    assert time.perf_counter() - start < 10  # 0.7 s on an idle core


def test_a_missing_file_names_the_root_and_its_neighbours(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "code_2k.json").write_bytes(as_json(ROWS))
    message = fault(tmp_path, "code/code2k.json")
    assert f"data.root={tmp_path}" in message and "did you mean code_2k.json?" in message
    assert "check the path and data.root" in fault(tmp_path, "nowhere/x.csv")


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        (
            "bad.jsonl",
            as_lines(ROWS) + b'\n{"instruction": "SECRET',
            ["bad.jsonl:4", "not valid JSON"],
        ),
        ("bad.json", b'[{"instruction": "SECRET",\n]', ["bad.json:2", "not valid JSON"]),
        (
            "latin.csv",
            b"prompt,completion\nSECRET,caf\xe9\n",
            ["latin.csv:2", "not UTF-8", "iconv"],
        ),
        ("wide.tsv", "prompt\tcompletion".encode("utf-16"), ["wide.tsv:1", "iconv -f utf-16"]),
        ("empty.jsonl", b" \n", ["empty.jsonl", "empty"]),
        ("none.json", b"[]", ["none.json", "no rows"]),
        ("header.csv", b"prompt,completion\n", ["header.csv", "no rows"]),
        ("text.txt", b"SECRET", ["text.txt", "'.txt'", ".jsonl"]),
        ("plain.jsonl.gz", b"SECRET", ["plain.jsonl.gz", "damaged"]),
        ("cut.jsonl.gz", gzip.compress(as_lines(ROWS))[:-12], ["cut.jsonl.gz", "damaged"]),
        ("bad.parquet", b"PAR1SECRET", ["bad.parquet", "not a readable Parquet"]),
        ("words.jsonl", b'"SECRET"\n', ["words.jsonl:1", "is a str"]),
        ("words.json", b'["SECRET"]', ["words.json:1", "is a str"]),
        ("number.json", b"7", ["number.json", "expected a JSON array"]),
        ("wide.csv", b"prompt,completion\nSECRET,a,b\n", ["wide.csv:2", "3 fields", "2 columns"]),
        ("open.csv", b'prompt,completion\na,b\n"SECRET,a\n', ["open.csv:3", "not valid CSV"]),
        ("twice.csv", b"prompt,prompt\nSECRET,a\n", ["twice.csv:1", "twice"]),
        (
            "digits.jsonl",
            b'{"a": 1}\n{"a": ' + b"9" * 5000 + b"}",
            ["digits.jsonl:2", "4300 digits"],
        ),
        ("digits.json", b'[{"a":\n' + b"9" * 5000 + b"}]", ["digits.json:2", "4300 digits"]),
        ("deep.jsonl", b'{"a": 1}\n' + b"[" * 100_000, ["deep.jsonl:2", "nested too deeply"]),
        ("deep.json", b'[\n{"a":' + b"[" * 9999 + b"]" * 9999 + b"}]", ["deep.json:2", "deeply"]),
        ("again.jsonl", b'{"a": "x"}\n{"a": "SECRET", "a": "y"}', ["again.jsonl:2", "twice"]),
        ("again.json", b'[{"a": "\\"a\\":", "b":\n{"a": 1,\n"a": 2}}]', ["again.json:3", "twice"]),
        ("splits.json", b'{"a": [{"x": "SECRET"}], "b": [{"x": "1"}]}', ["a, b", "split: a"]),
    ],
)
def test_a_damaged_file_is_one_line_without_its_text(tmp_path, name, data, parts):
    (tmp_path / name).write_bytes(data)
    message = fault(tmp_path, name)
    assert all(part in message for part in parts), message
    assert "SECRET" not in message


def test_a_file_without_reading_rights_says_so(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(as_lines(ROWS))

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    assert "cannot be read (Permission denied)" in fault(tmp_path, "a.jsonl")


def test_the_first_row_of_a_file_without_header_is_not_shown(tmp_path):
    (tmp_path / "a.csv").write_text("What ails Mr Private born 1950 in X?,a cold\nOther?,b\n")
    message = fault(tmp_path, "a.csv")
    assert "Private" not in message and 'by position, e.g. "0"' in message
    examples = load(tmp_path, "a.csv", columns={"instruction": "0", "output": "1"})
    assert [e.output for e in examples] == ["a cold", "b"]


def test_a_hub_data_set_gets_subset_and_split(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path, name, split, revision):
        asked.append((path, name, split, revision))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    examples = load(tmp_path, "org/set-v1.0", subset="main", split="train[:3]", revision="v2")
    assert asked == [("org/set-v1.0", "main", "train[:3]", "v2")]
    assert [e.output for e in examples] == [row["output"] for row in ROWS]
    assert (examples[0].domain, examples[0].source) == ("set-v1", "org/set-v1.0:1")


def test_an_unreachable_hub_is_one_line(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(*args, **kwargs):
        raise ConnectionError("cannot reach the hub\nlong story")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = fault(tmp_path, "org/absent")
    assert "ConnectionError: cannot reach the hub" in message and "split=train" in message


def test_a_data_set_saved_to_disk_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS[:1])).save_to_disk(tmp_path / "dict")
    assert [e.output for e in load(tmp_path, "saved")] == [row["output"] for row in ROWS]
    assert len(load(tmp_path, "dict")) == 1
