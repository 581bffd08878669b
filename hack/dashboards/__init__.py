"""The Grafana dashboards, generated from one definition.

definition    what a dashboard consists of
boards        the three dashboards
vllm_metrics  the engine's own metrics that they use
grafana       Grafana's JSON of them
"""
