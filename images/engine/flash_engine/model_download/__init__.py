"""flash-fetch: the model onto a volume of the pod, before the engine starts.

    settings    what the pod template says
    source      what a model is fetched from, as the rest sees it: names, sizes, checksums, how to ask
    hub         a repository of a model hub
    registry    an image or artifact of a container registry; image_reference, image_content, docker_config: its words
    store       the cache's folders, locks and manifests; who uses what
    room        whether it fits, and what goes for it
    transfer    the bytes, resumed and verified
    unpacking   the layers of an image, one over the other
    record      delivery.json, which the gate and the operator read
    reporter    writes it, once a second
    course      all of it in order

`record` and `store` need the standard library alone: the launcher and the gate read them.
"""
