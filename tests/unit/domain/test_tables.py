"""Table 5.1: paired statistics against numpy, renderers against readers of their formats."""

import csv
import io

import numpy as np
import pytest

from app.domain.tables import Mean, PairedRow, compare_on_paired_seeds, to_csv, to_latex, to_markdown

ROW = PairedRow(
    "JPEG size (kB)", "tuned · epoch 4", Mean(17.264, 0.153), Mean(6.0071, 0.1312), Mean(-11.257, 0.0084), 9
)


def test_the_error_of_the_difference_is_that_of_paired_differences() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(5, 2, 400)
    finetuned = base + rng.normal(0.1, 0.05, 400)
    row = compare_on_paired_seeds("r", "c", dict(enumerate(base)), dict(enumerate(finetuned)))
    assert row is not None
    for mean, values in ((row.base, base), (row.finetuned, finetuned), (row.difference, finetuned - base)):
        assert mean.mean == pytest.approx(values.mean())
        assert mean.sem == pytest.approx(values.std(ddof=1) / 20)
    assert row.difference.sem < row.base.sem / 10  # unpaired, the same data could not tell the models apart


def test_only_seeds_that_both_have_are_compared() -> None:
    row = compare_on_paired_seeds("r", "c", {1: 1.0, 2: 2.0, 3: 99.0}, {2: 4.0, 1: 2.0, 4: -99.0})
    assert row is not None
    assert (row.n, row.base.mean, row.finetuned.mean, row.difference.mean) == (2, 1.5, 3.0, 1.5)


def test_without_two_shared_seeds_there_is_no_row() -> None:
    assert compare_on_paired_seeds("r", "c", {1: 1.0, 2: 2.0}, {2: 4.0, 3: 1.0}) is None


@pytest.mark.parametrize(("sem", "decimals"), [(0.153, 2), (0.0084, 4), (12.0, 0), (1.0, 1), (0.0, 2), (1e-12, 6)])
def test_digits_follow_the_error(sem: float, decimals: int) -> None:
    assert Mean(1.0, sem).decimals == decimals


def test_csv_reads_back_to_full_precision() -> None:
    (line,) = csv.DictReader(io.StringIO(to_csv([ROW])))
    assert float(line["difference_mean"]) == ROW.difference.mean
    assert float(line["finetuned_sem"]) == ROW.finetuned.sem
    assert (line["checkpoint"], line["n"]) == (ROW.checkpoint, "9")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_a_name_that_a_spreadsheet_would_run_is_quoted(name: str) -> None:
    row = PairedRow("r", name, Mean(1, 1), Mean(1, 1), Mean(0, 1), 2)
    (line,) = csv.DictReader(io.StringIO(to_csv([row])))
    assert line["checkpoint"] == f"'{name}"


def test_markdown_shows_what_the_thesis_shows() -> None:
    assert to_markdown([ROW]).splitlines()[2] == (
        "| JPEG size (kB) | tuned · epoch 4 | 17.26 ± 0.15 | 6.01 ± 0.13 | -11.2570 ± 0.0084 | 9 |"
    )


def test_markdown_names_cannot_break_the_table_or_inject_markup() -> None:
    row = PairedRow("a|b", "<script>\n[x](y)", Mean(1, 1), Mean(1, 1), Mean(0, 1), 2)
    line = to_markdown([row]).splitlines()[2]
    assert line.count("|") - line.count(r"\|") == 7
    assert r"\<script\> \[x\](y)" in line


def test_latex_escapes_every_special_character() -> None:
    row = PairedRow("50% & more_#1", r"a\b{c}~^$", Mean(1, 1), Mean(1, 1), Mean(0, 1), 2)
    line = to_latex([row]).splitlines()[4]
    assert line.startswith(r"50\% \& more\_\#1 & a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}\$ & ")
    assert r"$1.0 \pm 1.0$" in line
    assert line.endswith(r"\\")
    assert line.replace(r"\&", "").count("&") == 5
