"""The activator: holds requests of deployments that are at zero until a replica serves, and passes them on.

    request -> port of a deployment -> admitted -> waits -> passed on to a replica
                                           |          |
                                           +-> 503 <--+   full, too long, stopping

It does not use the Kubernetes API. It reads from the operator which port belongs to which deployment and which replicas
serve, and the operator reads from it how many requests wait. While a replica serves, no Service has its address.
"""
