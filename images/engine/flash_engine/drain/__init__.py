"""flash-drain: what the kubelet runs in the engine's container before it ends it.

the gate turns not ready -> the endpoint goes -> requests that are under way end -> the kubelet sends SIGTERM
"""
