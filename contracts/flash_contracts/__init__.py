"""What the operator, the engine pod, the labeller and the quantiser agree on, each declared once.

Documents that one part writes and another reads, names on Kubernetes objects, the reasons of verdicts, and how an
engine's flags follow from what is known of its node. Standard library only: the launcher imports this package.
"""
