"""Fixtures for all tests: a real API server, and a real cluster, each started once for a run."""

import os
import sys

import hypothesis

pytest_plugins = ["cluster_fixtures", "fault_options", "fixture_times", "levels", "worker_groups"]

# Tests start hundreds of our programs. Without bytecode, each would compile everything that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# The time of an example depends on the machine, and no test may depend on timing.
hypothesis.settings.register_profile("flash", deadline=None)
hypothesis.settings.load_profile("flash")
