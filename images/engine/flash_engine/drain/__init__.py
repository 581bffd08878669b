"""flash-drain: the preStop hook of the engine's container.

the gate becomes unready -> the endpoint is removed -> requests in flight finish -> the kubelet sends SIGTERM
"""
