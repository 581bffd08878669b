"""Fixtures for all tests: a real API server, and a real cluster, each started once for a run."""

import os
import sys

import hypothesis

pytest_plugins = ["cluster_fixtures", "fixture_times", "levels", "worker_groups"]

# Tests start hundreds of programs of ours. Where a shell forbids bytecode, each start would compile all it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long an example takes depends on the machine, and a timing decides no test.
hypothesis.settings.register_profile("flash", deadline=None)
hypothesis.settings.load_profile("flash")
