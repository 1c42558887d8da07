"""Runs of one configuration as one model: parameters stacked, so that a step of all is as many calls as one of each.

Letters in shapes: S runs, B batch, D tap width, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from kvbench.core.losses import objective, objectives
from kvbench.core.module import attributes
from kvbench.core.numerics import default_numerics
from kvbench.core.recipe import EVALUATION_BATCH
from kvbench.core.run import FUSED, Run, in_chunks, make_optimizer
from kvbench.utils.errors import UserError, describe
from kvbench.utils.oom import out_of_memory

CLOSE = 1e-3  # of the largest number: rounding is a thousandth of it
WARM_UP = 3  # steps before one is captured


class NotStackedError(Exception):
    """Why runs cannot be stacked, for a sentence."""


def stacks(runs: Sequence[Run]) -> list[Stack]:
    """Stack runs, those on the same banks together, and fewer of them where memory does not hold all.

    Raises:
        NotStackedError: they cannot be stacked.
    """
    banks: dict[tuple[int, int], list[Run]] = {}
    for run in runs:
        banks.setdefault((id(run.train.logits), id(run.val.logits)), []).append(run)
    return [stack for together in banks.values() for stack in _as_memory_allows(together)]


def _as_memory_allows(runs: Sequence[Run]) -> list[Stack]:
    try:
        return [Stack(runs)]
    except Exception as error:
        if len(runs) == 1 or not out_of_memory(error):
            raise
    half = -(-len(runs) // 2)  # and what the first try held is freed
    return [*_as_memory_allows(runs[:half]), *_as_memory_allows(runs[half:])]


class Stack:
    """Runs that are trained as one model, each on batches in its own order; used as one `Run` is.

    What a run holds is the truth: its parameters and its optimiser's state are copied into the stack before each epoch
    and evaluation, and back after an epoch. So states are kept and restored as those of any run. A run that is ahead of
    the others takes part, without effect: what kernels compute may depend on how many runs there are.

    On a CUDA GPU a whole step is one graph, captured once, and so is the evaluation of a batch.

    Args:
        runs: of one configuration and on the same banks; they are not begun, and stay as they are.

    Raises:
        NotStackedError: a step of the stack is not known to be a step of each run.
    """

    draws = False  # random numbers: such students are not stacked

    @default_numerics()
    def __init__(self, runs: Sequence[Run]):
        first = runs[0]
        self.runs, self.device = list(runs), first.device
        self.train, self.val, self.recipe = first.train, first.val, first.configuration.recipe
        for obstacle in _obstacles(runs):
            raise NotStackedError(obstacle)
        batch = torch.arange(min(self.recipe.batch_size, len(self.train)), device=self.device)
        rows = batch.repeat(len(runs), 1)
        try:
            self.module = copy.deepcopy(first.module)
            every = [dict(run.module.named_parameters()) for run in runs]
            self.parameters = {
                name: torch.stack([own[name].detach() for own in every]).requires_grad_(value.requires_grad)
                for name, value in every[0].items()
            }
            self.optimizer = make_optimizer(self.recipe, [p for p in self.parameters.values() if p.requires_grad])
            for group in self.optimizer.param_groups:  # a graph reads lr from memory; float32 is what its kernels take
                dtype = torch.float64 if self.device.type == "cpu" else torch.float32
                group["lr"] = torch.tensor(group["lr"], dtype=dtype, device=self.device)
                group["capturable"] = True
            self._compare(rows)
            self.step: Callable[[Tensor], Tensor] = self._step
            self.score: Callable[[Tensor], Tensor] = self._score
            if self.device.type == "cuda":
                self.step = graphed(self._step, rows)
                self.module.eval()
                self.score = graphed(self._score, self._val_rows()[0])
        except Exception as error:
            if isinstance(error, NotStackedError) or out_of_memory(error):
                raise
            raise NotStackedError(f"a step of a stack fails: {describe(error)}") from error

    @property
    def epochs_done(self) -> int:
        """Of the runs that are farthest behind."""
        return min(run.epochs_done for run in self.runs)

    @property
    def done(self) -> bool:
        """Whether every run is."""
        return all(run.done for run in self.runs)

    def chunks(self) -> Iterator[None]:
        """Train one epoch of the runs that are behind, pausing often; after the recipe's last one, do nothing.

        Raises:
            UserError: a loss is no finite number, as in `Run.chunks`; the other runs have trained their epoch.
        """
        behind = [run for run in self.runs if run.epochs_done == self.epochs_done and not run.done]
        if not behind:
            return
        self._load(behind)
        self.module.train()
        orders = {run: torch.randperm(len(self.train), generator=run.order) for run in behind}
        rows = torch.stack([orders.get(run, orders[behind[0]]) for run in self.runs]).to(self.device)
        batches = torch.split(rows, self.recipe.batch_size, 1)
        losses, seconds = yield from in_chunks(self.step, batches, self.device)
        self._store(behind)
        ended = zip(self.runs, losses.cpu().T, strict=True)
        problems = [run.end_epoch(own, seconds / len(behind)) for run, own in ended if run in behind]
        if any(problems):
            raise UserError(next(filter(None, problems)))

    def evaluation(self) -> Iterator[None]:
        """Append the history row of the epoch just trained to each run's history, pausing after every batch."""
        trained = [run for run in self.runs if run.trained]
        if not trained:
            return
        self._load(trained)
        self.module.eval()
        scores: list[Tensor] = []
        for rows in self._val_rows():
            scores.append(self.score(rows))
            yield
        sums = torch.stack(scores).cpu().double().sum(0)
        for run, (loss, correct, agreeing) in zip(self.runs, sums.T.tolist(), strict=True):
            if run in trained:
                run.end_evaluation(loss, int(correct), int(agreeing))

    def _step(self, rows: Tensor) -> Tensor:
        """Train on a batch of each run, rows (S, B); returns their losses (S,), on the device."""
        xs, teacher_logits, labels = self.train.batch(rows.flatten())
        logits = self._logits([x.view(*rows.shape, -1) for x in xs])
        losses = objectives(self.recipe, logits, teacher_logits.view_as(logits), labels.view(rows.shape))
        self.optimizer.zero_grad()
        if losses.requires_grad:
            losses.sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return losses.detach()

    @torch.inference_mode()
    def _score(self, rows: Tensor) -> Tensor:
        """What validation rows (B,) add to each run's loss, right answers and agreements (3, S), on the device."""
        xs, teacher_logits, labels = self.val.batch(rows)
        logits = self._logits(xs, shared=True)
        losses = objectives(self.recipe, logits, *_for_each(len(self.runs), teacher_logits, labels))
        top = logits.argmax(2)
        right = [(top == wanted).sum(1) for wanted in (labels, teacher_logits.argmax(1))]
        return torch.stack([losses * len(labels), *right])

    def _val_rows(self) -> Sequence[Tensor]:
        """The rows of each batch of the validation bank."""
        return torch.split(torch.arange(len(self.val), device=self.device), EVALUATION_BATCH)

    def _logits(self, xs: Sequence[Tensor], *, shared: bool = False) -> Tensor:
        """Logits (S, B, K) of all runs, from taps (S, B, D) each, or (B, D) that they share."""

        def forward(parameters: dict[str, Tensor], *taps: Tensor) -> Tensor:
            logits: Tensor = functional_call(self.module, parameters, (list(taps),))
            return logits

        logits: Tensor = vmap(forward, (0, *(None if shared else 0 for _ in xs)))(self.parameters, *xs)
        return logits

    def _load(self, runs: Sequence[Run]) -> None:
        """Take over what some runs hold."""
        for group, own in zip(self.optimizer.param_groups, runs[0].optimizer.param_groups, strict=True):
            group["lr"].fill_(own["lr"])
        _copy((own, mine) for mine, own in self._shared_state(runs))

    def _store(self, runs: Sequence[Run]) -> None:
        """Hand back what some runs hold."""
        _copy(self._shared_state(runs))
        for run in runs:
            run.optimizer.step()  # does nothing without gradients, but tells the schedule that steps were made

    def _shared_state(self, runs: Sequence[Run]) -> Iterator[tuple[Tensor, Tensor]]:
        """The trained parameters and the optimisers' states of some runs, each in the stack and in the run."""
        for slot, run in enumerate(self.runs):
            for name, own in run.module.named_parameters() if run in runs else ():
                whole = self.parameters[name]
                if not own.requires_grad:
                    continue
                yield whole[slot], own
                for kind, value in self.optimizer.state[whole].items():
                    mine = value[slot] if value.shape == whole.shape else value  # the number of steps is everyone's
                    if kind not in run.optimizer.state[own]:
                        run.optimizer.state[own][kind] = torch.zeros_like(mine)
                    yield mine, run.optimizer.state[own][kind]

    def _compare(self, rows: Tensor) -> None:
        """Make a step, and evaluate: raise `NotStackedError` where logits or gradients are not those of each run.

        Memory that training needs is asked for here. Parameters are others afterwards, until runs are loaded.
        """
        shared = self.val.batch(self._val_rows()[0])[0]
        self.module.eval()
        with torch.inference_mode():
            evaluated = self._logits(shared, shared=True)
        self.module.train()
        self._step(rows)
        for slot in {0, len(self.runs) - 1}:
            run, lone = self.runs[slot], copy.deepcopy(self.runs[slot].module)
            before = attributes(lone)
            lone.eval()
            with torch.inference_mode():
                _need_close([evaluated[slot]], [lone(list(shared))], "logits in evaluation mode")
            lone.train()
            xs, teacher_logits, labels = self.train.batch(rows[slot])
            loss = objective(self.recipe, lone(xs), teacher_logits, labels)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            if attributes(lone) != before:
                raise NotStackedError("it changes what it holds while it is trained")
            if not all(map(torch.equal, lone.parameters(), run.module.parameters())):
                raise NotStackedError("it changes its parameters in its forward pass")
            stacked = {name: one.grad[slot] for name, one in self.parameters.items() if one.grad is not None}
            alone = {name: one.grad for name, one in lone.named_parameters() if one.grad is not None}
            if stacked.keys() != alone.keys():
                raise NotStackedError("other parameters of it are trained in a stack")
            _need_close([*stacked.values()], [*alone.values()], "gradients")


def _obstacles(runs: Sequence[Run]) -> Iterator[str]:
    """Why runs cannot be stacked, as far as can be told without trying."""
    first, recipe = runs[0], runs[0].configuration.recipe
    if callable(recipe.loss):
        yield "its loss is a function that may not be the mean of the rows' own"
    if recipe.optimizer not in FUSED:
        yield f"its optimizer is {recipe.facts['optimizer']}; those that treat each number alone are {', '.join(FUSED)}"
    if any(run.draws for run in runs):
        yield "it draws random numbers"
    if any(True for run in runs for _ in run.module.buffers()):
        yield "it has buffers"
    if any(run.attributes != first.attributes or _layout(run) != _layout(first) for run in runs):
        yield "its seeds differ in more than their parameters' values"
    for run in runs:
        every = list(run.module.parameters())
        if len({own.untyped_storage().data_ptr() for own in every}) < len(every):
            yield "its parameters share memory"
        if any(own._backward_hooks or own._post_accumulate_grad_hooks for own in every):
            yield "it has hooks on its gradients"


def _layout(run: Run) -> list[object]:
    named = run.module.named_parameters()
    return [(name, own.shape, own.dtype, own.layout, own.requires_grad) for name, own in named]


def _need_close(mine: Sequence[Tensor], own: Sequence[Tensor], what: str) -> None:
    largest = max([float(one.detach().abs().max()) for one in own if one.numel()], default=0.0)
    pairs = zip(mine, own, strict=True)
    if not all(torch.allclose(one, other, rtol=0, atol=CLOSE * largest) for one, other in pairs):
        raise NotStackedError(f"its {what} are others in a stack")


def _for_each(count: int, *tensors: Tensor) -> list[Tensor]:
    """Tensors (B, ...) as (S, B, ...), without copies."""
    return [x.expand(count, *x.shape) for x in tensors]


@torch.no_grad()
def _copy(pairs: Iterator[tuple[Tensor, Tensor]]) -> None:
    """Copy the first of each pair to the second, in few calls."""
    if found := list(pairs):
        sources, targets = zip(*found, strict=True)
        torch._foreach_copy_(list(targets), list(sources))


def graphed(step: Callable[[Tensor], Tensor], rows: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of rows on a CUDA GPU, captured as a graph for rows of this shape; others call the function.

    It is called a few times, with these rows: whatever it changes has to be restored.
    """
    static = rows.clone()
    with torch.cuda.device(rows.device):
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                step(static)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = step(static)

    def replay(rows: Tensor) -> Tensor:
        if rows.shape != static.shape:
            return step(rows)
        static.copy_(rows)
        graph.replay()
        return result.clone()

    return replay
