"""Tables as spreadsheets and scanners' consoles write them."""

import pandas as pd
import pytest

from daskglm.errors import DesignError
from daskglm.io.confounds import read_events
from daskglm.io.tables import read_table

EXPECTED = pd.DataFrame({"participant_id": ["01", "02", "03"], "age": [30.5, 41.0, None], "sex": ["F", "M", "F"]})
TSV = "participant_id\tage\tsex\n01\t30.5\tF\n02\t41\tM\n03\tn/a\tF\n"


def beside(*cells):
    """The table with one more column before the others."""
    lines = TSV.replace("\t", ",").split()
    return "".join(f"{cell},{line}\n" for cell, line in zip(cells, lines, strict=True)).encode()


READ = {
    "as BIDS says": ("tsv", TSV.encode()),
    "with a byte order mark": ("tsv", TSV.encode("utf-8-sig")),
    "UTF-16": ("tsv", TSV.encode("utf-16")),
    "UTF-16, big-endian": ("tsv", b"\xfe\xff" + TSV.encode("utf-16-be")),
    "Windows' line ends": ("tsv", TSV.replace("\n", "\r\n").encode()),
    "line ends of old Macs": ("csv", TSV.replace("\t", ",").replace("\n", "\r").encode()),
    "line ends of old Macs, UTF-16": ("tsv", TSV.replace("\n", "\r").encode("utf-16")),
    "blanks around cells": ("tsv", TSV.replace("\t", " \t ").replace("\n", " \n").replace("F", "F\u00a0").encode()),
    "rows of tabs at the end": ("tsv", (TSV + "\t\t\n \t\t\n\n").encode()),
    "columns of tabs at the end": ("tsv", TSV.replace("\n", "\t\t\n").encode()),
    "row numbers of pandas": ("csv", beside("", "0", "1", "2")),
    "row numbers of R": ("csv", beside('""', '"1"', '"2"', '"3"')),
    "commas": ("csv", TSV.replace("\t", ",").encode()),
    "semicolons": ("csv", TSV.replace("\t", ";").encode()),
    "tabs in a text file": ("txt", TSV.encode()),
    "blanks around cells beside quotes": (
        "tsv",
        TSV.replace("\t", "\t ").replace(" sex", '"sex "').replace("01", '" 01"').replace("M", "M ").encode(),
    ),
    "quotes": ("csv", TSV.replace("\t", '","').replace("\n", '"\n"').encode().join([b'"', b""]).removesuffix(b'"')),
}


@pytest.mark.parametrize("kind", READ)
def test_tables_are_read(tmp_path, kind):
    ending, content = READ[kind]
    path = tmp_path / f"participants.{ending}"
    path.write_bytes(content)
    pd.testing.assert_frame_equal(read_table(path), EXPECTED, check_dtype=False)


REFUSED = {
    "Latin-1": ("tsv", TSV.replace("M", "Männlich").encode("latin-1"), r"line 3 of .*'02\\t41\\tMännlich'.*as UTF-8"),
    "UTF-8 marked as UTF-16": ("tsv", b"\xff\xfe" + TSV.encode(), "marked as UTF-16, but has no lines in it"),
    "UTF-16 without its mark": ("tsv", TSV.encode("utf-16-le"), "zero bytes; save the file as UTF-8"),
    "commas in a .tsv": ("tsv", TSV.replace("\t", ",").encode(), "its first line has commas: .*or name it .csv"),
    "semicolons in a .tsv": ("tsv", TSV.replace("\t", ";").encode(), "its first line has semicolons"),
    "tabs in a .csv": ("csv", TSV.encode(), "its first line has tabs: .*or name it .tsv"),
    "a name twice": ("tsv", TSV.replace("sex", "age").encode(), "has age more than once"),
    "row names without a title, as R writes": (
        "tsv",
        TSV.replace("participant_id\t", "").encode(),
        "name every column",
    ),
    "ids without a name": (
        "csv",
        beside("", "101", "102", "103"),
        "that of 101, 102, 103 in .* has none; name it \\(participant_id",
    ),
    "a quote that does not end": ("tsv", TSV.replace("M", '"M').encode(), "cannot read the table .*EOF inside string"),
    "a row too long": (
        "csv",
        (TSV + "04\t1\tF\t7\n").replace("\t", ",").encode(),
        "Expected 3 fields in line 5, saw 4",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_tables_that_would_have_to_be_guessed_are_refused(tmp_path, kind):
    ending, content, message = REFUSED[kind]
    path = tmp_path / f"participants.{ending}"
    path.write_bytes(content)
    with pytest.raises(DesignError, match=message):
        read_table(path)


def test_an_empty_cell_inside_a_table_keeps_its_row(tmp_path):
    """Confounds have a row a volume: the first of framewise displacement is missing."""
    path = tmp_path / "confounds.tsv"
    path.write_text("fd\tx\nn/a\tn/a\n\t\n0.2\t1\n")
    assert read_table(path).shape == (3, 2)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_events_are_read_in_the_same_encodings(tmp_path, encoding):
    path = tmp_path / "events.tsv"
    path.write_bytes("onset\tduration\ttrial_type\n1 \t2\t 面孔\n\t\t\n".encode(encoding))
    events = read_events(path)
    assert events.to_numpy().tolist() == [[1.0, 2, "面孔"]]
    path.write_bytes("onset\tduration\ttrial_type\n1\t2\tvisión\n".encode("latin-1"))
    with pytest.raises(DesignError, match=r"line 2 of .* save the file as UTF-8"):
        read_events(path)
