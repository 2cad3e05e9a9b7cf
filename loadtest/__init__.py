"""Load tests of a SmartBatch server: closed-loop stress, parameter study, open-loop capacity."""
