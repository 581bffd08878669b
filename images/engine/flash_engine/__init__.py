"""What runs beside vLLM in an engine pod.

`flash_engine.launcher` is the first process of the engine container: it takes its node's flags and runs vLLM.
`flash_engine.gate` is a sidecar of the same image: it measures the engine and says whether the pod may serve.
They meet in small files of a shared folder, `flash_contracts.engine_pod`.
"""
