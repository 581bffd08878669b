"""I/O and time: watches, the work queue, the API client, the gates' results, election, health.

Decisions are in `flash_operator.core`; nothing here knows why, only how.
"""
