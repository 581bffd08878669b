"""Fixtures for all tests: a real API server, and a real cluster, each started once for a run."""

pytest_plugins = ["cluster_fixtures"]
