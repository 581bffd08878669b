"""The gate: measures the engine beside it, and is the pod's readiness.

    evidence (what was seen)  --judge, pure-->  verdict (reason, message)  --latched-->  /readyz, /result, /metrics

`verdict` and `measurement` decide and never wait; `engine_client` asks and never decides; `gate` brings them
together in time.
"""
