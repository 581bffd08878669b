"""Runs beside vLLM in an engine pod.

`flash_engine.launcher` is the first process of the engine container: it reads its node's flags and runs vLLM.
`flash_engine.gate` is a sidecar of the same image: it measures the engine and decides whether the pod may serve.
They communicate through small files in a shared folder (`flash_contracts.engine_pod`).
"""
