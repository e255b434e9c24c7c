"""Tables of rewards (thesis, table 5.1): checkpoints beside their base on the same seeds; CSV, Markdown, LaTeX."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error."""

    mean: float
    sem: float

    @property
    def decimals(self) -> int:
        """Digits after the point that the error justifies: as many as show its first two digits, at most six."""
        if not (self.sem > 0 and math.isfinite(self.sem)):
            return 2
        return min(6, max(0, 1 - math.floor(math.log10(self.sem))))


@dataclass(frozen=True)
class PairedRow:
    """One reward of a checkpoint beside its base, over the seeds that both have."""

    task: str
    """The reward in words with its unit, as the first column shows it."""
    checkpoint: str
    base: Mean
    finetuned: Mean
    difference: Mean
    """Finetuned minus base. Its error is that of the paired differences: the shared noise cancels."""
    n: int


def compare_on_paired_seeds(
    task: str, checkpoint: str, base: Mapping[int, float], finetuned: Mapping[int, float]
) -> PairedRow | None:
    """Compare two checkpoints' rewards, given by seed, over the seeds that both have.

    Returns:
        None where fewer than two seeds are shared: there is no standard error to state.
    """
    seeds = sorted(base.keys() & finetuned.keys())
    if len(seeds) < 2:
        return None
    before, after = [base[seed] for seed in seeds], [finetuned[seed] for seed in seeds]
    differences = [new - old for old, new in zip(before, after, strict=True)]
    return PairedRow(task, checkpoint, mean_of(before), mean_of(after), mean_of(differences), len(seeds))


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and standard error of at least two values."""
    return Mean(fmean(values), stdev(values) / math.sqrt(len(values)))


def to_csv(rows: Sequence[PairedRow]) -> str:
    """Full precision, one line a row. Text that a spreadsheet would take for a formula gets a leading apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    parts = ("base", "finetuned", "difference")
    writer.writerow(["task", "checkpoint", *(f"{part}_{column}" for part in parts for column in ("mean", "sem")), "n"])
    for row in rows:
        numbers = [value for mean in _means(row) for value in (mean.mean, mean.sem)]
        writer.writerow([_no_formula(row.task), _no_formula(row.checkpoint), *numbers, row.n])
    return out.getvalue()


def to_markdown(rows: Sequence[PairedRow]) -> str:
    """A pipe table."""
    lines = [
        "| Task | Checkpoint | Base | Finetuned | Difference | n |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        numbers = [_shown(mean, "±") for mean in _means(row)]
        cells = " | ".join([_markdown(row.task), _markdown(row.checkpoint), *numbers, str(row.n)])
        lines.append(f"| {cells} |")
    return "\n".join(lines) + "\n"


def to_latex(rows: Sequence[PairedRow]) -> str:
    r"""A `tabular` for the `booktabs` package."""
    lines = [
        r"\begin{tabular}{llrrrr}",
        r"\toprule",
        r"Task & Checkpoint & Base & Finetuned & Difference & $n$ \\",
        r"\midrule",
    ]
    for row in rows:
        numbers = [f"${shown}$" for shown in (_shown(mean, r"\pm") for mean in _means(row))]
        lines.append(" & ".join([_latex(row.task), _latex(row.checkpoint), *numbers, str(row.n)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _means(row: PairedRow) -> tuple[Mean, Mean, Mean]:
    return row.base, row.finetuned, row.difference


def _shown(value: Mean, sign: str) -> str:
    return f"{value.mean:.{value.decimals}f} {sign} {value.sem:.{value.decimals}f}"


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _markdown(text: str) -> str:
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _latex(text: str) -> str:
    return " ".join("".join(_LATEX.get(character, character) for character in text).split())
