"""What every load test does: a server to aim at, payloads, processes that send, and signals that end it in order.

May import from `account`; from no test.
"""
