"""Sets up the experts' servers by measuring, and measures them beside SmartBatch: throughput, then goodput."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bench import backends
from bench.cells import EXPERT_PEERS, PRECISIONS, SMARTBATCH, Cell, in_precision
from bench.experts import goodput, search
from bench.judge import Judge
from bench.progress import say
from bench.servers.expert import Setup

LONGEST_PROBE_S = 10.0
QUICK_PEERS = 2
"""Whose goodput a quick run measures: a few connections do not tell for certain who bears random arrivals."""


def measure_experts(judge: Judge, cells: Sequence[Cell]) -> None:
    """Set up, then measure the tables expert and goodput; nothing where there are no such cells."""
    if not cells:
        return
    judge.end_table()
    judge.drop_models()
    contest = Contest(judge, cells)
    for precision in PRECISIONS:
        if any(cell.precision == precision for cell in cells):
            contest.set_up(precision)
    contest.measure()


class Contest:
    """Which cells are measured, on which of the servers that were tried.

    Args:
        judge: for its servers and settings.
        cells: of the tables expert and goodput.
    """

    def __init__(self, judge: Judge, cells: Sequence[Cell]) -> None:
        self._judge = judge
        self._cells = list(cells)
        self._chosen: dict[str, search.Trial] = {}
        """By a cell's key."""

    def set_up(self, precision: str) -> None:
        """Choose a setup for each cell of this precision; cells without one are left out, and it is said why."""
        judge = self._judge
        cells = [cell for cell in self._cells if cell.precision == precision]
        say(f"experts in {precision}: the fastest engine")
        try:
            base, rates = search.fastest_engine(judge, precision)
        except search.NoEngine as error:
            judge.leave_out(cells, str(error))
            return
        told = judge.setups[precision] = {"engine": base.engine, "micro_batch": base.micro_batch, "engines": rates}
        for peer in self._worth_trying(precision):
            title = in_precision(peer, precision)
            say(f"{title}: what is the fastest")
            trials = search.search_own(judge, precision) if peer == SMARTBATCH else search.search(judge, peer, base)
            own = [cell for cell in cells if cell.title == title]
            if not trials:
                judge.leave_out(own, "no setup worked")
                continue
            for cell in own:
                self._chosen[cell.key] = search.CHOICES[cell.table](trials)
            told[peer] = {table: choose(trials).told() for table, choose in search.CHOICES.items()}
            told[peer]["tried"] = [trial.told() for trial in trials]
            self._keep_only_chosen(trials)

    def measure(self) -> None:
        """Both tables."""
        throughput = [self._placed(cell) for cell in self._cells if cell.table == "expert" and cell.key in self._chosen]
        self._judge.prepare(throughput)
        self._judge.measure_rounds(throughput)
        rates = [self._placed(cell) for cell in self._cells if cell.table == "goodput" and cell.key in self._chosen]
        if self._judge.args.quick:
            rates = self._best_of(rates)
        self._judge.prepare(rates)
        closed_loop = {cell.key: self._chosen[cell.key].requests_per_s for cell in rates}
        goodput.measure(self._judge, rates, closed_loop, min(self._judge.args.seconds, LONGEST_PROBE_S))

    def _worth_trying(self, precision: str) -> list[str]:
        """Who is measured in this precision; in a quick run, beside SmartBatch, the best expert in fp32."""
        titles = {cell.title for cell in self._cells if cell.precision == precision}
        peers = [peer for peer in (SMARTBATCH, *EXPERT_PEERS) if in_precision(peer, precision) in titles]
        if not self._judge.args.quick or precision == "fp32":
            return peers
        keys = {peer: f"expert:{peer}:jpeg375" for peer in EXPERT_PEERS}
        known = [peer for peer in EXPERT_PEERS if keys[peer] in self._chosen]
        best = max(known, key=lambda peer: self._chosen[keys[peer]].requests_per_s, default=None)
        return [peer for peer in peers if best is None or peer in (SMARTBATCH, best)]

    def _best_of(self, cells: Sequence[Cell]) -> list[Cell]:
        """SmartBatch, and the experts who made most with few connections."""
        own = [cell for cell in cells if cell.title == SMARTBATCH]
        others = [cell for cell in cells if cell.title != SMARTBATCH]
        others.sort(key=lambda cell: -self._chosen[cell.key].objective_requests_per_s)
        return [*own, *others[:QUICK_PEERS]]

    def _placed(self, cell: Cell) -> Cell:
        """The cell on the server that was chosen for it: a model of TorchServe's, or a server of its own to start."""
        trial = self._chosen[cell.key]
        if trial.backend in self._judge.running:
            return dataclasses.replace(cell, backend=trial.backend, model=trial.model)
        self._judge.work.setups[cell.backend] = Setup(**trial.setup)
        same = next((key for key in self._judge.running if self._is_same(key, trial)), cell.backend)
        return dataclasses.replace(cell, backend=same)

    def _is_same(self, key: str, trial: search.Trial) -> bool:
        setup = self._judge.work.setups.get(key)
        return setup == Setup(**trial.setup) and key.split("/")[0] == trial.backend.split("/")[0]

    def _keep_only_chosen(self, trials: Sequence[search.Trial]) -> None:
        """A model that nobody measures any more has its memory."""
        kept = {(trial.backend, trial.model) for trial in self._chosen.values()}
        for trial in trials:
            server = self._judge.running.get(trial.backend)
            if isinstance(server, backends.TorchServe) and (trial.backend, trial.model) not in kept:
                with self._judge.turn(server):
                    server.unregister(trial.model)
