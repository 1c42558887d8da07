"""Findings: a sentence about students, and the terms that make it exact."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Union

from kvbench.findings.clauses import Claim
from kvbench.findings.curves import EVERYONE, Costs, Curves
from kvbench.utils.errors import UserError, describe, need_name, raised_at

Groups = Mapping[str, tuple[str, ...]]  # name of each group or tag -> its students
Claims = Callable[[Curves, Costs], list[Claim]]


class Term:
    """One exact statement, which makes the claims to be tested: `kvbench.findings.vocabulary` has them."""

    across: tuple[str, ...] = ()  # the two recipes that it compares; none: it is judged on each recipe by itself
    when: ClassVar[str] = ""  # in words, where not over the whole run

    @property
    def needs(self) -> tuple[str, ...]:
        """The students and groups that it is about."""
        raise NotImplementedError

    def claims(self, curves: Curves, costs: Costs) -> list[Claim]:
        """What is claimed of curves: a claim for each student of the subject."""
        raise NotImplementedError

    def describe(self, groups: Groups) -> str:
        """The statement in words."""
        raise NotImplementedError


Terms = Union[Term, Claims, Sequence["Terms"]]


@dataclass(frozen=True)
class _Function(Term):
    """A function of the user's as a term, about the students that its finding names."""

    function: Claims
    students: tuple[str, ...]

    @property
    def needs(self) -> tuple[str, ...]:
        return self.students

    def claims(self, curves: Curves, costs: Costs) -> list[Claim]:
        name = getattr(self.function, "__name__", "a function")
        try:
            found = list(self.function(curves, costs))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{name}, a term of a finding, fails: {describe(error)} ({raised_at(error)}).") from error
        if strange := [claim for claim in found if not isinstance(claim, Claim)]:
            raise UserError(f"{name}, a term of a finding, returns {type(strange[0]).__name__}; valid are claims.")
        return found

    def describe(self, groups: Groups) -> str:  # noqa: ARG002
        text = self.function.__doc__ or f"what {getattr(self.function, '__name__', 'a function')} claims"
        return text.strip().partition("\n")[0].rstrip(".")


@dataclass(frozen=True)
class Finding:
    """A sentence about students, and what is claimed by it: a row of a study's findings.

    Args:
        id: its name in options and files.
        sentence: the source's.
        terms: one or several of `kvbench.findings.vocabulary`; a function from curves and costs to claims is one, too.
        students: what functions among them need, by name or group.
        recipes: those that it is judged on; empty: all.

    Raises:
        UserError: there is no term, or something else among them, or they do not compare the same recipes.

    Example:
        >>> from kvbench.findings.vocabulary import above, at_least
        >>> Finding("mlp-wins", "two layers beat one", above("mlp", "linear", "val_accuracy")).names
        ('mlp', 'linear')
        >>> two = [above("mlp", "linear", "val_accuracy"), at_least(2, "linear", "mlp", "train_loss")]
        >>> Finding("mlp-wins", "two layers beat one", two).describe({})
        "at the last epoch mlp's accuracy is above linear's; linear's training loss is at least 2x mlp's"
    """

    id: str
    sentence: str
    terms: Terms
    students: tuple[str, ...] = (EVERYONE,)
    recipes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        need_name(self.id, "A finding")
        if len({term.across for term in self._terms}) != 1:
            raise UserError(f"The finding {self.id} needs terms that all compare the same two recipes, or none.")

    @cached_property
    def _terms(self) -> tuple[Term, ...]:
        return tuple(self._flat(self.terms))

    def _flat(self, terms: Terms) -> Iterator[Term]:
        if isinstance(terms, Term):
            yield terms
        elif callable(terms):
            yield _Function(terms, self.students)
        elif isinstance(terms, (list, tuple)):
            for term in terms:
                yield from self._flat(term)
        else:
            raise UserError(f"The finding {self.id} has {terms!r} among its terms; valid are terms and functions.")

    @property
    def across(self) -> tuple[str, ...]:
        """The two recipes that it compares, or none."""
        return self._terms[0].across

    @property
    def names(self) -> tuple[str, ...]:
        """The students and groups that it is about."""
        return tuple(dict.fromkeys(itertools.chain(*(term.needs for term in self._terms))))

    def claims(self, curves: Curves, costs: Costs) -> list[Claim]:
        """All that it claims of curves; raises `UserError` where two claims have one id, or none counts."""
        found: list[Claim] = []
        # Terms that say something of the same students, one after the other, make claims student by student.
        for subject, together in itertools.groupby(self._terms, lambda term: getattr(term, "subject", None)):
            sides = [term.claims(curves, costs) for term in together]
            found += itertools.chain(*(zip(*sides, strict=True) if subject else sides))
        if not any(claim.gating for claim in found):
            raise UserError(f"The finding {self.id} claims nothing that counts: name students in its terms.")
        ids = [claim.id for claim in found]
        if twice := [name for name in dict.fromkeys(ids) if ids.count(name) > 1]:
            raise UserError(f"The finding {self.id} has two clauses called {', '.join(twice)}; give one term a label.")
        return found

    def rehearse(self, curves: Curves) -> None:
        """Make claims of made-up curves; raises `UserError` as `claims` does, but calls no function of the user's."""
        known = [term for term in self._terms if not isinstance(term, _Function)]
        if known:
            replace(self, terms=known).claims(curves, {})

    def describe(self, groups: Groups) -> str:
        """What is judged, in words."""
        parts, before = [], ""
        for term in self._terms:
            words = term.describe(groups)
            parts.append(f"{term.when} {words}" if term.when not in ("", before) else words)
            before = term.when
        return "; ".join(parts)
