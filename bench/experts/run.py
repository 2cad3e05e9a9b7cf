"""Sets up the experts' servers by measuring, and measures them beside SmartBatch: throughput, then goodput."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from bench import backends
from bench.cells import EXPERT_PEERS, PRECISIONS, SMARTBATCH, Cell, in_precision
from bench.experts import goodput, search
from bench.judge import Judge
from bench.progress import say

LONGEST_PROBE_S = 10.0


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
        self._named: dict[str, str] = {}
        """What a server that was tried and chosen is called from then on: as the first cell has it that it is for."""

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

    def _placed(self, cell: Cell) -> Cell:
        """The cell on the server that was chosen for it: a model of TorchServe's, or a server of its own."""
        trial = self._chosen[cell.key]
        running = self._judge.running
        if isinstance(running.get(trial.backend), backends.TorchServe):
            return dataclasses.replace(cell, backend=trial.backend, model=trial.model)
        key = self._named.setdefault(trial.backend, cell.backend)
        if trial.backend in running:
            running[key] = running.pop(trial.backend)
        return dataclasses.replace(cell, backend=key)

    def _keep_only_chosen(self, trials: Sequence[search.Trial]) -> None:
        """A model or server that nobody measures has its memory."""
        kept = {(trial.backend, trial.model) for trial in self._chosen.values()}
        for trial in trials:
            server = self._judge.running.get(trial.backend)
            if server is None or (trial.backend, trial.model) in kept:
                continue
            if isinstance(server, backends.TorchServe):
                with self._judge.turn(server):
                    server.unregister(trial.model)
            else:
                self._judge.end(trial.backend)
