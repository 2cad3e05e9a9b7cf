"""byte_budget: threads wait for each other's memory."""

from __future__ import annotations

import threading

from smartbatch_worker.formats.byte_budget import ByteBudget


def test_threads_share_a_byte_budget() -> None:
    budget = ByteBudget()
    held, most, lock = 0, 0, threading.Lock()
    all_started = threading.Barrier(8)

    def work(num_bytes: int) -> None:
        nonlocal held, most
        all_started.wait()
        for _ in range(50):
            with budget.holding(num_bytes, 100):
                with lock:
                    held += num_bytes
                    most = max(most, held)
                with lock:
                    held -= num_bytes

    threads = [threading.Thread(target=work, args=(num_bytes,)) for num_bytes in (10, 20, 30, 40, 50, 60, 90, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == 0
    assert most <= 100
