"""The account of a run: what was sent and answered, by whom, on which machine, as it happens and afterwards.

May import from `load.target`, whose server it asks; from no test.
"""
