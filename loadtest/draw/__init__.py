"""Pictures and tables that more than one load test draws; imports nothing of a test, so that any may use it."""
