"""Fixtures for all tests: a real API server, and a real cluster, each started once for a run."""

import hypothesis

pytest_plugins = ["cluster_fixtures", "fixture_times"]

# How long an example takes depends on the machine, and a timing decides no test.
hypothesis.settings.register_profile("flash", deadline=None)
hypothesis.settings.load_profile("flash")
