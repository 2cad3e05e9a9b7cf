"""Measurements that no product code depends on."""
