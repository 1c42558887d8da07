"""What stands on a page of HTML, as a browser would read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

from kvbench.reference.store import Reference
from kvbench.reporting.contents import Contents
from tests.support import DESIGN

VOID = {"meta", "link", "input", "br"}


@dataclass
class Element:
    name: str
    attributes: dict[str, str]
    text: str = ""
    inside: list[Element] = field(default_factory=list)

    def all(self, name: str) -> list[Element]:
        """Every element of that name in it, in order."""
        found = [self] if self.name == name else []
        return found + [one for element in self.inside for one in element.all(name)]

    @property
    def everything(self) -> list[Element]:
        return [self, *(one for element in self.inside for one in element.everything)]

    @property
    def cells(self) -> list[list[str]]:
        """Of a table."""
        return [[cell.text.strip() for cell in row.inside if cell.name in {"td", "th"}] for row in self.all("tr")]

    @property
    def means(self) -> list[list[str]]:
        """The same without the ranges in small letters behind numbers, which markdown does not have."""
        return [[cell.text.removesuffix("".join(small.text for small in cell.all("small"))).strip()
                 for cell in row.inside if cell.name in {"td", "th"}] for row in self.all("tr")]  # fmt: skip


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].inside.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"{tag} ends inside {self.open[-1].name}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


def parse(html: str) -> Element:
    """The page; every element that is opened must be closed."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert len(parser.open) == 1, parser.open[-1].name
    return parser.open[0]


def run_of(reference: Reference, seeds: int = 4, **facts: object) -> Contents:
    """A run that repeats a reference's first seeds but for one student's loss, held against it."""
    from kvbench.findings.judge import judge

    histories = reference.histories[reference.histories["seed"] < seeds].copy()
    histories.loc[histories["configuration"] == "Model3", "train_loss"] *= 1.3
    known = {**reference.provenance, "workload": reference.workload, "seeds": list(range(seeds)), **facts}
    outcome = {"outcome": "failed", "reasons": ["benchmarks/test_ablation.py::test_configuration[Model3]"]}
    judged = judge(histories, DESIGN, reference.costs)
    return Contents(histories, DESIGN, judged, known, reference.costs, outcome, reference)
