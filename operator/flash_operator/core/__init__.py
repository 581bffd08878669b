"""Every decision of the operator, as pure functions of what was observed.

Nothing here does I/O, reads a clock or imports kopf: `plan(observed)` is a value that can be printed, compared and
asserted, and `flash_operator.runtime` carries it out. import-linter enforces this.
"""
