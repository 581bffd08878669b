"""I/O and time: watches, the work queue, the API client, gate results, leader election, health.

All decisions are in `flash_operator.core`.
"""
