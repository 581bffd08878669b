"""The gate: measures the engine in its pod, and decides the pod's readiness.

gate           observes gate.json, the engine and its counters, and runs trials     I/O
state_machine  turns each observation into the next state and actions               pure
verdict        judges the evidence                                                  pure
server         shows the state at /readyz, /livez, /result and /metrics             I/O
"""
