"""Builds the OpenAI-compatible Service. Only pods that passed their gate are endpoints."""

from flash_operator.api.v1alpha1 import FlashDeployment
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.resources.engine_args import PORT
from flash_operator.core.resources.identity import metadata, selector

PORT_NAME = "http"
"""Of the Service's only port, and of the engine's in the pod."""


def service(flash: FlashDeployment) -> RawObject:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(flash, flash.name),
        "spec": {
            "selector": selector(flash),
            "ports": [{"name": PORT_NAME, "port": PORT, "protocol": "TCP", "targetPort": PORT_NAME}],
        },
    }


def endpoint(flash: FlashDeployment) -> str:
    return f"http://{flash.name}.{flash.namespace}.svc:{PORT}/v1"
