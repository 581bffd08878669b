"""flash-fetch: downloads the model onto a volume of the pod before the engine starts.

    settings    settings from the environment
    source      the interface of a model source: files, sizes, checksums, requests
    hub         a repository on a model hub
    registry    an image or artifact in a container registry, with image_reference, image_content and docker_config
    disk_space  whether a model fits into the cache, and which models to remove to make room
    transfer    downloads files, resuming and verifying them, with http_stream (one request) and receive_rate
    unpacking   unpacks the layers of an image over each other; model_folder finds the model in the result
    reporter    writes delivery.json once a second, which the gate and the operator read
    workflow    runs these steps in order

The cache itself (folders, locks, manifests) is in `flash_engine.model_cache`, which the launcher imports too.
"""
