"""The activator: holds requests of deployments that are at zero until a replica serves, and passes them on.

    request -> port of a deployment -> admitted -> waits -> passed on to a replica
                                           |          |
                                           +-> 503 <--+   full, too long, stopping

It knows nothing of Kubernetes: which port is whose, and which replicas serve, the operator tells it. It wakes nobody:
the operator asks it what waits. While a replica serves, it is in nobody's way: its address is then in no Service.
"""
