"""What the API server rejects, and its message: the field, and what to write instead."""

from typing import Any

import pytest

from builders import a_flash_object
from flash_operator.api.argument_rules import GRAPH_SIZES, OWNED_ARGUMENTS, SIZES
from flash_operator.api.variable_rules import EXTRA_VARIABLES, LINK_VARIABLES

pytestmark = pytest.mark.apiserver

CUSTOM = {"profile": "Custom", "contextTokens": 1024, "maxSequences": 4}
HUB = {"source": "hf://owner/name"}
REFUSED = {
    "no model": ({"model": None}, "spec.model", "must be of type object"),
    "a source without a scheme": ({"model": {"source": "/models/v4"}}, "spec.model.source", "should match"),
    "a source of an unknown scheme": ({"model": {"source": "s3://bucket/v4"}}, "spec.model.source", "(hf|oci|pvc)"),
    "a revision of a folder": (
        {"model": {"source": "pvc://a/b", "revision": "main"}},
        "spec.model.revision",
        "revision is only for hf:// sources",
    ),
    "a cache for a claim": (
        {"model": {"source": "pvc://a/b", "cache": {"type": "Node"}}},
        "spec.model.cache",
        "already on a volume",
    ),
    "a cache for an image that is mounted": (
        {"model": {"source": "oci://a/b", "ociDelivery": "ImageVolume", "cache": {"type": "Pod"}}},
        "spec.model.cache",
        "the kubelet stores an image",
    ),
    "ociDelivery for a hub's model": (
        {"model": {**HUB, "ociDelivery": "Fetch"}},
        "spec.model.ociDelivery",
        "only for oci:// sources",
    ),
    "an unknown ociDelivery": (
        {"model": {"source": "oci://a/b", "ociDelivery": "Pull"}},
        "spec.model.ociDelivery",
        "supported values",
    ),
    "credentials for a claim": (
        {"model": {"source": "pvc://a/b", "credentialsSecret": "s"}},
        "spec.model.credentialsSecret",
        "remove it",
    ),
    "a hub for a claim": (
        {"model": {"source": "pvc://a/b", "hubEndpoint": "https://h"}},
        "spec.model.hubEndpoint",
        "remove it",
    ),
    "a hub that is no address": ({"model": {**HUB, "hubEndpoint": "mirror"}}, "spec.model.hubEndpoint", "should match"),
    "a password in a hub's address": (
        {"model": {**HUB, "hubEndpoint": "https://me:secret@h"}},
        "spec.model.hubEndpoint",
        "should match",
    ),
    "a claim without its name": ({"model": {**HUB, "cache": {"type": "Claim"}}}, "cache.claimName", "belong together"),
    "a claim's name without the type": (
        {"model": {**HUB, "cache": {"type": "Node", "claimName": "c"}}},
        "cache.claimName",
        "belong together",
    ),
    "a folder without the type": ({"model": {**HUB, "cache": {"path": "/a"}}}, "cache.path", "set type to Node"),
    "a folder that leads upwards": (
        {"model": {**HUB, "cache": {"type": "Node", "path": "/a/../b"}}},
        "cache.path",
        "whole path",
    ),
    "a folder from nowhere": ({"model": {**HUB, "cache": {"type": "Node", "path": "a"}}}, "cache.path", "should match"),
    "a cache of nothing": ({"model": {**HUB, "cache": {"maxGibibytes": 0}}}, "cache.maxGibibytes", "equal to 1"),
    "a Secret that cannot be": (
        {"model": {**HUB, "credentialsSecret": "My_Secret"}},
        "spec.model.credentialsSecret",
        "should match",
    ),
    "a hub for the engine": (
        {"engine": {"extraEnv": [{"name": "HF_ENDPOINT", "value": "x"}]}},
        "spec.engine.extraEnv",
        "model.hubEndpoint",
    ),
    "a hub for a head restored from a claim": (
        {"model": {"source": "pvc://a/b", "restoreMtp": {"source": "pvc://a/c"}, "hubEndpoint": "https://h"}},
        "spec.model.hubEndpoint",
        "remove it",
    ),
    "a head to restore for a hub's model": (
        {"model": {"source": "hf://a/b", "restoreMtp": {"source": "hf://a/official"}}},
        "spec.model.restoreMtp",
        "copy the checkpoint to a claim",
    ),
    "a head to restore at a claim's root": (
        {"model": {"source": "pvc://models", "restoreMtp": {"source": "hf://a/official"}}},
        "spec.model.restoreMtp",
        "write pvc://CLAIM/FOLDER",
    ),
    "a head to restore without a source": (
        {"model": {"source": "pvc://a/b", "restoreMtp": {}}},
        "spec.model.restoreMtp.source",
        "Required value",
    ),
    "a head to restore from an image": (
        {"model": {"source": "pvc://a/b", "restoreMtp": {"source": "oci://a/official"}}},
        "spec.model.restoreMtp.source",
        "should match",
    ),
    "a head to restore from a claim's root": (
        {"model": {"source": "pvc://a/b", "restoreMtp": {"source": "pvc://official"}}},
        "spec.model.restoreMtp.source",
        "pvc://CLAIM/FOLDER",
    ),
    "a head to restore from a name without an owner": (
        {"model": {"source": "pvc://a/b", "restoreMtp": {"source": "hf://official"}}},
        "spec.model.restoreMtp.source",
        "hf://OWNER/NAME@COMMIT",
    ),
    "a head to restore from outside the claim": (
        {"model": {"source": "pvc://a/b", "restoreMtp": {"source": "pvc://a/../c"}}},
        "spec.model.restoreMtp.source",
        "must not contain '..'",
    ),
    "a capture at a claim's root": (
        {"model": {"source": "pvc://a/b", "restoreMtp": {"source": "hf://a/o", "capture": "pvc://a"}}},
        "spec.model.restoreMtp.capture",
        "a capture must have the form pvc://CLAIM/FOLDER",
    ),
    "a capture outside the claim": (
        {"model": {"source": "pvc://a/b", "restoreMtp": {"source": "hf://a/o", "capture": "pvc://a/../c"}}},
        "spec.model.restoreMtp.capture",
        "must not contain '..'",
    ),
    "a restored head that the drafter does not use": (
        {
            "model": {"source": "pvc://a/b", "restoreMtp": {"source": "hf://a/official"}},
            "speculation": {"method": "Dspark"},
        },
        "spec.speculation.method",
        "set method to Mtp, or remove restoreMtp",
    ),
    "no served name": ({"model": {"source": "pvc://a/b", "servedNames": []}}, "spec.model.servedNames", "at least 1"),
    "negative replicas": ({"replicas": -1}, "spec.replicas", "greater than or equal to 0"),
    "too many replicas": ({"replicas": 65}, "spec.replicas", "less than or equal to 64"),
    "replicas as a word": ({"replicas": "two"}, "spec.replicas", "expected numeric"),
    "an unknown profile": ({"engine": {"profile": "Fast"}}, "spec.engine.profile", '"LongContext"'),
    "a custom profile without its figures": (
        {"engine": {"profile": "Custom"}},
        "spec.engine.profile",
        "needs contextTokens and maxSequences",
    ),
    "more memory than there is": ({"engine": {"memoryPercent": 120}}, "spec.engine.memoryPercent", "equal to 98"),
    "a context of nothing": ({"engine": {"contextTokens": 0}}, "spec.engine.contextTokens", "equal to 16"),
    "fewer batched tokens than sequences": (
        {"engine": {"batchedTokens": 16, "maxSequences": 32}},
        "spec.engine.batchedTokens",
        "at least maxSequences",
    ),
    "an unknown pull policy": (
        {"engine": {"imagePullPolicy": "Sometimes"}},
        "spec.engine.imagePullPolicy",
        '"IfNotPresent"',
    ),
    "the port as an extra argument": ({"engine": {"extraArgs": ["--port=9"]}}, "spec.engine.extraArgs", "8000"),
    "speculation as an extra argument": (
        {"engine": {"extraArgs": ["--speculative-config", "{}"]}},
        "spec.engine.extraArgs",
        "use speculation",
    ),
    "an API key as an extra argument": (
        {"engine": {"extraArgs": ["--api-key=x"]}},
        "spec.engine.extraArgs",
        "name it in engine.apiKeysSecret",
    ),
    "custom all-reduce as an extra argument": (
        {"engine": {"extraArgs": ["--disable-custom-all-reduce"]}},
        "spec.engine.extraArgs",
        "use interconnect.customAllReduce",
    ),
    "a variable of the operator's own": (
        {"engine": {"extraEnv": [{"name": "FLASH_RUN_DIR", "value": "/"}]}},
        "spec.engine.extraEnv",
        "choose another name",
    ),
    "a variable twice": (
        {"engine": {"extraEnv": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}},
        "spec.engine.extraEnv",
        "duplicate",
    ),
    "a variable without a name": ({"engine": {"extraEnv": [{"value": "1"}]}}, "spec.engine.extraEnv", "name"),
    "a variable with a bad name": (
        {"engine": {"extraEnv": [{"name": "1A", "value": "1"}]}},
        "spec.engine.extraEnv[0].name",
        "should match",
    ),
    "an unknown speculation": ({"speculation": {"method": "Eagle"}}, "spec.speculation.method", '"Mtp"'),
    "too many drafts": ({"speculation": {"tokens": 6}}, "spec.speculation.tokens", "less than or equal to 5"),
    "more drafts than the MTP head makes": ({"speculation": {"tokens": 3}}, "spec.speculation.tokens", "1 or 2 tokens"),
    "safe and forced at once": (
        {"interconnect": {"mode": "Safe", "customAllReduce": "Enabled"}},
        "spec.interconnect.customAllReduce",
        "set one of them to Auto",
    ),
    "safe with peer-to-peer": (
        {"interconnect": {"mode": "Safe", "env": [{"name": "NCCL_P2P_DISABLE", "value": "0"}]}},
        "spec.interconnect.env",
        "remove NCCL_P2P_DISABLE=0",
    ),
    "LL128 over PCIe": (
        {"interconnect": {"env": [{"name": "NCCL_PROTO", "value": "LL,LL128"}]}},
        "spec.interconnect.env",
        "use LL or Simple",
    ),
    "NCCL without shared memory": (
        {"interconnect": {"env": [{"name": "NCCL_SHM_DISABLE", "value": "1"}]}},
        "spec.interconnect.env",
        "falls back to sockets",
    ),
    "a variable that is not NCCL's": (
        {"interconnect": {"env": [{"name": "PATH", "value": "/"}]}},
        "spec.interconnect.env",
        "engine.extraEnv",
    ),
    "a floor of nothing": (
        {"readiness": {"minDecodeTokensPerSecond": 0}},
        "spec.readiness.minDecodeTokensPerSecond",
        "equal to 1",
    ),
    "a floor above what is possible": (
        {"readiness": {"minAcceptancePercent": 101}},
        "spec.readiness.minAcceptancePercent",
        "equal to 100",
    ),
    "an acceptance length of less than the model's own token": (
        {"readiness": {"minAcceptanceLengthPercent": 99}},
        "spec.readiness.minAcceptanceLengthPercent",
        "equal to 100",
    ),
    "an acceptance length that one drafted token cannot reach": (
        {"readiness": {"minAcceptanceLengthPercent": 201}},
        "spec.readiness.minAcceptanceLengthPercent",
        "lower it",
    ),
    "an acceptance length without drafts": (
        {"readiness": {"minAcceptanceLengthPercent": 150}, "speculation": {"method": "Disabled"}},
        "spec.readiness.minAcceptanceLengthPercent",
        "remove it",
    ),
    "a long prompt of nothing": ({"readiness": {"promptTokens": 0}}, "spec.readiness.promptTokens", "equal to 256"),
    "a long prompt of less than nothing": (
        {"readiness": {"promptTokens": -4096}},
        "spec.readiness.promptTokens",
        "equal to 256",
    ),
    "a long prompt beyond the profile's context": (
        {"engine": {"profile": "Throughput"}, "readiness": {"promptTokens": 131000, "requestTimeoutSeconds": 3600}},
        "spec.readiness.promptTokens",
        "exceed the context",
    ),
    "a long prompt beyond the default profile's context": (
        {"readiness": {"promptTokens": 262144, "requestTimeoutSeconds": 3600}},
        "spec.readiness.promptTokens",
        "exceed the context",
    ),
    "a long prompt beyond the context that was set": (
        {"engine": {"contextTokens": 1024}, "readiness": {"promptTokens": 1000}},
        "spec.readiness.promptTokens",
        "exceed the context",
    ),
    "a long prompt that takes longer than a request may": (
        {"readiness": {"promptTokens": 100000}},
        "spec.readiness.promptTokens",
        "raise requestTimeoutSeconds",
    ),
    "a share of the floor above all of it": (
        {"readiness": {"minDepthDecodePercent": 101}},
        "spec.readiness.minDepthDecodePercent",
        "equal to 100",
    ),
    "a floor as a fraction": (
        {"readiness": {"minDecodeTokensPerSecond": 60.5}},
        "spec.readiness.minDecodeTokensPerSecond",
        "integer",
    ),
    "a ceiling beyond the request's time": (
        {"readiness": {"maxFirstTokenMillis": 500000, "requestTimeoutSeconds": 60}},
        "spec.readiness.maxFirstTokenMillis",
        "lower it",
    ),
    "a startup timeout shorter than one retry": (
        {"readiness": {"startupTimeoutSeconds": 10, "retrySeconds": 30}},
        "spec.readiness.startupTimeoutSeconds",
        "at least retrySeconds",
    ),
    "an empty question": ({"readiness": {"golden": {"prompt": ""}}}, "spec.readiness.golden.prompt", "at least 1"),
    "an unknown field": ({"engine": {"tensorParallelSize": 4}}, "engine.tensorParallelSize", "field not declared"),
    # The checkpoint.
    "a source with an owner only": ({"model": {"source": "hf://owner"}}, "spec.model.source", "hf://OWNER/NAME"),
    "a revision behind the name": (
        {"model": {"source": "hf://owner/name@main"}},
        "spec.model.source",
        "put a branch or commit into model.revision",
    ),
    "a claim's name in upper case": ({"model": {"source": "pvc://Models/v4"}}, "spec.model.source", "in lower case"),
    "a folder with a slash behind it": (
        {"model": {"source": "pvc://a/b/"}},
        "spec.model.source",
        "no trailing slash",
    ),
    "a folder above the claim's root": ({"model": {"source": "pvc://a/../b"}}, "spec.model.source", "must not contain"),
    "a revision of an image": (
        {"model": {"source": "oci://registry.example/m:1", "revision": "main"}},
        "spec.model.revision",
        "pin an oci:// image by its digest",
    ),
    "a served name that the engine would read as an argument": (
        {"model": {"source": "pvc://a/b", "servedNames": ["--port=9"]}},
        "spec.model.servedNames[0]",
        "should match",
    ),
    "a served name twice": (
        {"model": {"source": "pvc://a/b", "servedNames": ["v4", "v4"]}},
        "spec.model.servedNames",
        "remove one of them",
    ),
    # The engine, and the ways around the fields that vLLM's parser offers.
    "an image with a blank": ({"engine": {"image": "mine/engine :7"}}, "spec.engine.image", "should match"),
    "an argument with underscores": (
        {"engine": {"extraArgs": ["--max_model_len=1024"]}},
        "spec.engine.extraArgs",
        "use engine.contextTokens",
    ),
    "an argument cut short": (
        {"engine": {"extraArgs": ["--gpu-memory=0.9"]}},
        "spec.engine.extraArgs",
        "use engine.memoryPercent",
    ),
    "one key of a JSON argument": (
        {"engine": {"extraArgs": ["--speculative-config.num_speculative_tokens=3"]}},
        "spec.engine.extraArgs",
        "use speculation",
    ),
    "speculation by its short name": (
        {"engine": {"extraArgs": ["-sc={}"]}},
        "spec.engine.extraArgs",
        "use speculation",
    ),
    "custom all-reduce switched on by an argument": (
        {"engine": {"extraArgs": ["--no-disable-custom-all-reduce"]}},
        "spec.engine.extraArgs",
        "use interconnect.customAllReduce",
    ),
    "arguments in a file": (
        {"engine": {"extraArgs": ["--config", "/models/vllm.yaml"]}},
        "spec.engine.extraArgs",
        "write the file's lines as arguments",
    ),
    "an engine without the figures that the gate reads": (
        {"engine": {"extraArgs": ["--disable-log-stats"]}},
        "spec.engine.extraArgs",
        "leave it out",
    ),
    "an argument that is empty": ({"engine": {"extraArgs": [""]}}, "spec.engine.extraArgs[0]", "at least 1"),
    "too many arguments": (
        {"engine": {"extraArgs": [f"--a{n}" for n in range(33)]}},
        "spec.engine.extraArgs",
        "at most 32",
    ),
    "HOME, which the operator sets": (
        {"engine": {"extraEnv": [{"name": "HOME", "value": "/root"}]}},
        "spec.engine.extraEnv",
        "override it in podTemplate",
    ),
    "a token in an environment variable": (
        {"engine": {"extraEnv": [{"name": "HF_TOKEN", "value": "x"}]}},
        "spec.engine.extraEnv",
        "model.credentialsSecret",
    ),
    "a key that the gate does not have": (
        {"engine": {"extraEnv": [{"name": "VLLM_API_KEY", "value": "x"}]}},
        "spec.engine.extraEnv",
        "the Secret in engine.apiKeysSecret",
    ),
    "that key by the other way": (
        {"interconnect": {"env": [{"name": "VLLM_API_KEY", "value": "x"}]}},
        "spec.interconnect.env",
        "the Secret in engine.apiKeysSecret",
    ),
    "plugins by the other way": (
        {"interconnect": {"env": [{"name": "VLLM_PLUGINS", "value": "x"}]}},
        "spec.interconnect.env",
        "put it into engine.extraEnv",
    ),
    "an NCCL variable in the wrong place": (
        {"engine": {"extraEnv": [{"name": "NCCL_DEBUG", "value": "INFO"}]}},
        "spec.engine.extraEnv",
        "interconnect.env",
    ),
    "GPUs as a resource": (
        {"engine": {"resources": {"limits": {"nvidia.com/gpu": 4}}}},
        "spec.engine.resources",
        "raise replicas",
    ),
    "a resource that is no quantity": (
        {"engine": {"resources": {"requests": {"memory": "64 gigabytes"}}}},
        "spec.engine.resources.requests.memory",
        "should match",
    ),
    "a resource in the wrong place": (
        {"engine": {"resources": {"memory": "64Gi"}}},
        "engine.resources.memory",
        "field not declared",
    ),
    # What contradicts the shape of a replica, or itself.
    "a tensor parallel size of four in profile Custom": (
        {"engine": {**CUSTOM, "extraArgs": ["-tp", "4"]}},
        "spec.engine.extraArgs",
        "to 1 and to nothing else",
    ),
    "two servers in profile Custom": (
        {"engine": {**CUSTOM, "extraArgs": ["--api_server_count=12"]}},
        "spec.engine.extraArgs",
        "to 1 and to nothing else",
    ),
    "graph sizes in JSON": (
        {"engine": {"extraArgs": ["--compilation-config", '{"cudagraph_capture_sizes": [1, 2]}']}},
        "spec.engine.extraArgs",
        "sizes of CUDA graphs are not allowed here",
    ),
    "graph sizes by the short name": (
        {"engine": {"extraArgs": ["-cc.max_cudagraph_capture_size=16"]}},
        "spec.engine.extraArgs",
        "sizes of CUDA graphs are not allowed here",
    ),
    "Ray": (
        {"engine": {"extraArgs": ["--distributed-executor-backend", "ray"]}},
        "spec.engine.extraArgs",
        "must not be ray",
    ),
    "a queue shorter than the streams": (
        {"engine": {"extraArgs": ["--max_num_queued_reqs", "3"]}},
        "spec.engine.extraArgs",
        "raise it, or lower maxSequences",
    ),
    "a queue that takes no token": (
        {"engine": {"extraArgs": ["--max-num-queued-tokens=0"]}},
        "spec.engine.extraArgs",
        "rejects every request",
    ),
    "an argument that vLLM does not have": (
        {"engine": {"extraArgs": ["--seed=1", "--num_scheduler_steps=8"]}},
        "spec.engine.extraArgs",
        "has no argument --num-scheduler-steps: correct it, or set engine.image",
    ),
    "an argument that is cut too short": (
        {"engine": {"extraArgs": ["--cpu-offload=1"]}},
        "spec.engine.extraArgs",
        "or several that begin with it",
    ),
    "a word without an argument": (
        {"engine": {"extraArgs": ["another/model"]}},
        "spec.engine.extraArgs",
        "the first item must begin with '-'",
    ),
    "an argument and its value in one item": (
        {"engine": {"extraArgs": ["--seed 1"]}},
        "spec.engine.extraArgs",
        "write NAME=VALUE, or the value as the next item",
    ),
    "a blank before an argument": (
        {"engine": {"extraArgs": ["--seed=1", " --enforce-eager"]}},
        "spec.engine.extraArgs",
        "which vLLM takes for a part of the name",
    ),
    "a dash of a word processor": (
        {"engine": {"extraArgs": ["--seed=1", "\u2013tensor-parallel-size=4"]}},
        "spec.engine.extraArgs",
        "a typographic dash",
    ),
    "a slice of a GPU": (
        {"engine": {"resources": {"limits": {"nvidia.com/mig-1g.10gb": 1}}}},
        "spec.engine.resources",
        "raise replicas",
    ),
    "one GPU of two": (
        {"engine": {"extraEnv": [{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}]}},
        "spec.engine.extraEnv",
        "the device plugin gives the pod its two GPUs",
    ),
    "data parallelism by a variable": (
        {"interconnect": {"env": [{"name": "VLLM_DP_SIZE", "value": "2"}]}},
        "spec.interconnect.env",
        "VLLM_DP_SIZE is not allowed here: a replica is one engine",
    ),
    "a library in every program": (
        {"engine": {"extraEnv": [{"name": "LD_PRELOAD", "value": "/x.so"}]}},
        "spec.engine.extraEnv",
        "build it into an image, and name that in engine.image",
    ),
    "a request above its limit": (
        {"engine": {"resources": {"requests": {"memory": "65Gi"}, "limits": {"memory": "65000Mi"}}}},
        "spec.engine.resources",
        "lower the request, or raise the limit",
    ),
    "a request above its limit, in other forms": (
        {"engine": {"resources": {"requests": {"cpu": 2}, "limits": {"cpu": "1999m"}}}},
        "spec.engine.resources",
        "lower the request, or raise the limit",
    ),
    "custom all-reduce with an allocator that breaks it, by its new name": (
        {
            "interconnect": {"customAllReduce": "Enabled"},
            "engine": {
                "extraEnv": [
                    {"name": "PYTORCH_ALLOC_CONF", "value": "max_split_size_mb:512, expandable_segments : True"}
                ]
            },
        },
        "spec.engine.extraEnv",
        "set interconnect.customAllReduce to Auto",
    ),
    # Secrets.
    "a secret as an argument of another image": (
        {"engine": {"image": "a/b:1", "extraArgs": ["--remote-auth-token", "x"]}},
        "spec.engine.extraArgs",
        "an argument that is a secret is not allowed here",
    ),
    "a password in JSON": (
        {"engine": {"extraArgs": ["--kv-transfer-config", '{"extra": {"redisPassword": "x"}}']}},
        "spec.engine.extraArgs",
        "valueFrom.secretKeyRef in podTemplate",
    ),
    "a key of a JSON argument that is a secret": (
        {"engine": {"extraArgs": ["--kv-transfer-config.extra.secret_key=x"]}},
        "spec.engine.extraArgs",
        "an argument that is a secret is not allowed here",
    ),
    "a token by its form": (
        {"engine": {"extraArgs": ["--download-dir", "hf_" + "aB3" * 8]}},
        "spec.engine.extraArgs",
        "an item contains a token",
    ),
    "a cloud's key": (
        {"engine": {"extraEnv": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}]}},
        "spec.engine.extraEnv",
        "valueFrom.secretKeyRef in podTemplate",
    ),
    "a password in a proxy's address": (
        {"engine": {"extraEnv": [{"name": "HTTPS_PROXY", "value": "http://me:secret@proxy:3128"}]}},
        "spec.engine.extraEnv",
        "a value contains a token, a password or a key",
    ),
    "a header with a key": (
        {"engine": {"extraEnv": [{"name": "OTEL_EXPORTER_OTLP_HEADERS", "value": "api-key=abc"}]}},
        "spec.engine.extraEnv",
        "a value contains a token, a password or a key",
    ),
    "a Secret of keys that cannot be": (
        {"engine": {"apiKeysSecret": "My_Secret"}},
        "spec.engine.apiKeysSecret",
        "should match",
    ),
    # Invalid names of images.
    "an image in capital letters": ({"engine": {"image": "Mine/engine:7"}}, "spec.engine.image", "in lower case"),
    "an image without a part": ({"engine": {"image": "mine//engine"}}, "spec.engine.image", "without empty parts"),
    "an image with an empty tag": ({"engine": {"image": "mine/engine:"}}, "spec.engine.image", "[:TAG]"),
    "an image with a digest cut short": (
        {"engine": {"image": "mine/engine@sha256:abc"}},
        "spec.engine.image",
        "all 64 digits",
    ),
    "an image as a web address": (
        {"engine": {"image": "https://registry.example/engine"}},
        "spec.engine.image",
        "this is not a valid image name",
    ),
    "a model's image in capital letters": (
        {"model": {"source": "oci://Team/V4"}},
        "spec.model.source",
        "in lower case",
    ),
    "a quantiser's image without a name": (
        {"model": {"source": "pvc://a/b", "restoreMtp": {"source": "hf://a/o", "image": "registry.example/"}}},
        "spec.model.restoreMtp.image",
        "this is not a valid image name",
    ),
    # Speculation and interconnect.
    "drafts without speculation": (
        {"speculation": {"method": "Disabled", "tokens": 2}},
        "spec.speculation.tokens",
        "remove it, or set method to Mtp",
    ),
    "an unknown mode": ({"interconnect": {"mode": "Turbo"}}, "spec.interconnect.mode", '"Safe"'),
    "an unknown NCCL profile": ({"interconnect": {"ncclProfile": "LL"}}, "spec.interconnect.ncclProfile", '"None"'),
    "custom all-reduce without peer-to-peer": (
        {"interconnect": {"customAllReduce": "Enabled", "env": [{"name": "NCCL_P2P_DISABLE", "value": "1"}]}},
        "spec.interconnect.env",
        "or set customAllReduce to Auto",
    ),
    "custom all-reduce with an allocator that breaks it": (
        {
            "interconnect": {"customAllReduce": "Enabled"},
            "engine": {"extraEnv": [{"name": "PYTORCH_CUDA_ALLOC_CONF", "value": "expandable_segments:True"}]},
        },
        "spec.engine.extraEnv",
        "set interconnect.customAllReduce to Auto",
    ),
    "LL128 in small letters": (
        {"interconnect": {"env": [{"name": "NCCL_PROTO", "value": "ll128"}]}},
        "spec.interconnect.env",
        "use LL or Simple",
    ),
    "LL128 by leaving another protocol out": (
        {"interconnect": {"env": [{"name": "NCCL_PROTO", "value": "^Simple"}]}},
        "spec.interconnect.env",
        "nor ^, which forces LL128 too",
    ),
    "a value that NCCL does not read as no peer-to-peer": (
        {"interconnect": {"env": [{"name": "NCCL_P2P_DISABLE", "value": "true"}]}},
        "spec.interconnect.env",
        "NCCL_P2P_DISABLE must be 0 or 1",
    ),
    "NCCL without shared memory, in the engine's environment": (
        {"engine": {"extraEnv": [{"name": "NCCL_SHM_DISABLE", "value": "1"}]}},
        "spec.engine.extraEnv",
        "falls back to sockets",
    ),
    # Readiness.
    "a sample longer than the context": (
        {"engine": {"contextTokens": 128}, "readiness": {"decodeTokens": 128}},
        "spec.readiness.decodeTokens",
        "lower decodeTokens",
    ),
    "a sample that cannot end in time at the floor": (
        {"readiness": {"minDecodeTokensPerSecond": 1, "decodeTokens": 500}},
        "spec.readiness.decodeTokens",
        "raise requestTimeoutSeconds",
    ),
    "no sample at all": ({"readiness": {"samples": 0}}, "spec.readiness.samples", "equal to 1"),
    "a duration as a word": ({"readiness": {"retrySeconds": "30s"}}, "spec.readiness.retrySeconds", "expected numeric"),
    "an unknown kind of question": (
        {"readiness": {"golden": {"kind": "Embedding", "prompt": "x"}}},
        "spec.readiness.golden.kind",
        '"Completion"',
    ),
    "a completion of the question meant for a chat": (
        {"readiness": {"golden": {"kind": "Completion"}}},
        "spec.readiness.golden.prompt",
        "set a prompt",
    ),
    "an answer that is no regular expression": (
        {"readiness": {"golden": {"expect": "(42"}}},
        "spec.readiness.golden.expect",
        "escape literal characters",
    ),
    # Placement, rollout, and the rest.
    "a node label that cannot be": (
        {"placement": {"nodeSelector": {"no label": "x"}}},
        "spec.placement.nodeSelector",
        "write PREFIX/NAME or NAME",
    ),
    "a node label with a value that cannot be": (
        {"placement": {"nodeSelector": {"pool": "a b"}}},
        "spec.placement.nodeSelector.pool",
        "should match",
    ),
    "a toleration with a typing error": (
        {"placement": {"tolerations": [{"key": "nvidia.com/gpu", "opertor": "Exists"}]}},
        "placement.tolerations[0].opertor",
        "field not declared",
    ),
    "a toleration of an unknown effect": (
        {"placement": {"tolerations": [{"key": "a", "effect": "Never"}]}},
        "spec.placement.tolerations[0].effect",
        '"NoSchedule"',
    ),
    "a toleration of everything by accident": (
        {"placement": {"tolerations": [{"effect": "NoSchedule"}]}},
        "spec.placement.tolerations[0]",
        "set operator to Exists",
    ),
    "a toleration with a value that is not looked at": (
        {"placement": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}},
        "spec.placement.tolerations[0]",
        "use operator Equal",
    ),
    "a toleration for a time that never begins": (
        {"placement": {"tolerations": [{"key": "a", "tolerationSeconds": 5}]}},
        "spec.placement.tolerations[0]",
        "needs effect NoExecute",
    ),
    "two spreads over the same label": (
        {"placement": {"topologySpread": [{"topologyKey": "a"}, {"topologyKey": "a", "maxSkew": 2}]}},
        "spec.placement.topologySpread",
        "merge them into one",
    ),
    "a spread over what is no label": (
        {"placement": {"topologySpread": [{"topologyKey": "no label"}]}},
        "spec.placement.topologySpread[0].topologyKey",
        "write PREFIX/NAME or NAME",
    ),
    "a spread without a label": (
        {"placement": {"topologySpread": [{"maxSkew": 1}]}},
        "spec.placement.topologySpread[0].topologyKey",
        "Required value",
    ),
    "a spread that tolerates no difference": (
        {"placement": {"topologySpread": [{"topologyKey": "a", "maxSkew": 0}]}},
        "spec.placement.topologySpread[0].maxSkew",
        "equal to 1",
    ),
    "a priority of the system": (
        {"placement": {"priorityClassName": "system-node-critical"}},
        "spec.placement.priorityClassName",
        "create a PriorityClass of your own",
    ),
    "a priority class that cannot be": (
        {"placement": {"priorityClassName": "High"}},
        "spec.placement.priorityClassName",
        "should match",
    ),
    "a floor that no hardware reaches": (
        {"readiness": {"minDecodeTokensPerSecond": 2001}},
        "spec.readiness.minDecodeTokensPerSecond",
        "equal to 2000",
    ),
    "a tolerance of a floor that is not learned": (
        {"readiness": {"learnedTolerancePercent": 10}},
        "spec.readiness.learnedTolerancePercent",
        "set floor to Learned",
    ),
    "all streams of an engine that has one": (
        {"readiness": {"streams": "Full"}, "engine": {"maxSequences": 1}},
        "spec.readiness.streams",
        "set streams to One",
    ),
    "checks that are further apart than a stall may last": (
        {"readiness": {"serving": {"watchSeconds": 60, "stallSeconds": 100}}},
        "spec.readiness.serving.stallSeconds",
        "at least twice watchSeconds",
    ),
    "a stall that lasts no time": (
        {"readiness": {"serving": {"stallSeconds": 0}}},
        "spec.readiness.serving.stallSeconds",
        "equal to 10",
    ),
    "a quarantine limit for replicas that are never taken out": (
        {"readiness": {"serving": {"onDegraded": "Report", "maxQuarantined": 1}}},
        "spec.readiness.serving.maxQuarantined",
        "no effect with onDegraded Report",
    ),
    "a golden question that is longer than the context, with the figures": (
        {"readiness": {"golden": {"prompt": "x" * 100}}, "engine": {"contextTokens": 131}},
        "spec.readiness.golden.prompt",
        "has 100 characters, each of which may be a token, and its answer needs 32 tokens: together they may exc",
    ),
    "a drain of a day": ({"drain": {"timeoutSeconds": 86400}}, "spec.drain.timeoutSeconds", "equal to 3600"),
    "an unknown section": ({"autoscaling": {"min": 1}}, "spec.autoscaling", "field not declared"),
}


@pytest.mark.parametrize(("spec", "field", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_spec_is_rejected_with_the_field_and_the_remedy(
    apply_spec: Any, spec: dict[str, Any], field: str, message: str
) -> None:
    done = apply_spec(**spec)

    assert done.returncode != 0
    assert field in done.stderr
    assert message in done.stderr


OWNED = OWNED_ARGUMENTS | SIZES | GRAPH_SIZES
SPELLINGS = ("{argument}=2", "{argument}", "{underscored}=2", "{argument}.key=2", "{argument} 2")


@pytest.mark.parametrize("at", range(len(OWNED)), ids=list(OWNED))
def test_an_argument_that_has_a_field_is_rejected(apply_spec: Any, at: int) -> None:
    """Each in one of the spellings that vLLM takes, in turn; the next test has all spellings of some."""
    argument = list(OWNED)[at]
    done = apply_spec(engine={"extraArgs": ["--seed=1", spelt(argument, SPELLINGS[at % len(SPELLINGS)]), "2"]})

    assert done.returncode != 0
    assert "spec.engine.extraArgs" in done.stderr
    assert f"{argument} is not allowed here: {OWNED[argument]}" in done.stderr


def spelt(argument: str, spelling: str) -> str:
    name = argument.lstrip("-")
    underscored = argument[: len(argument) - len(name)] + name.replace("-", "_")
    return spelling.format(argument=argument, underscored=underscored)


SHAPES = {
    "--tensor-parallel-size": (*SPELLINGS, "--tensor-p", "--tensor_parallel=4"),
    "-tp": ("-tp", "-tp=2", "-tp2", "-t"),
    "-asc": ("-asc=2", "-as"),
    "-n": ("-n2", "-n=2", "-n"),
    "--max-cudagraph-capture-size": (*SPELLINGS, "--max-cudagraph=8"),
    "--hf-token": (*SPELLINGS, "--hf-tok=x"),
}


@pytest.mark.parametrize(
    ("argument", "spelling"), [(argument, spelling) for argument, spelt_as in SHAPES.items() for spelling in spelt_as]
)
def test_an_argument_is_rejected_in_every_spelling(apply_spec: Any, argument: str, spelling: str) -> None:
    done = apply_spec(engine={"extraArgs": [spelt(argument, spelling), "2"]})
    assert done.returncode != 0
    assert f"{argument} is not allowed here" in done.stderr


SEVERAL = {
    "arguments": (
        {"engine": {"extraArgs": ["--port=9", "--tensor-parallel=4", "-dpn2", "--host", "x"]}},
        (
            "--port is not allowed here: the Service needs port 8000; also --host is not allowed here: the operator",
            "--tensor-parallel-size is not allowed here",
            "-dpn is not allowed here",
        ),
    ),
    "more arguments than a message names": (
        {"engine": {"extraArgs": ["--host", "--port", "--uds", "--grpc", "--headless"]}},
        ("--grpc is not allowed here: the gate and the Service use HTTP; leave it out; also others",),
    ),
    "variables": (
        {"engine": {"extraEnv": [{"name": "HOME", "value": "/"}, {"name": "LD_AUDIT", "value": "x"}]}},
        ("HOME is not allowed here: the operator sets it", "also LD_AUDIT is not allowed here: it loads other code"),
    ),
    "variables of the link": (
        {"interconnect": {"env": [{"name": "HF_TOKEN", "value": "x"}, {"name": "VLLM_DP_SIZE", "value": "2"}]}},
        ("HF_TOKEN is not allowed here: anyone who", "also VLLM_DP_SIZE is not allowed here: a replica is one"),
    ),
}


@pytest.mark.parametrize(("spec", "messages"), SEVERAL.values(), ids=SEVERAL.keys())
def test_one_message_names_all_that_one_table_refuses(
    apply_spec: Any, spec: dict[str, Any], messages: tuple[str, ...]
) -> None:
    done = apply_spec(**spec)
    for message in messages:
        assert message in done.stderr


@pytest.mark.parametrize(
    ("section", "field", "name"),
    [
        *(("engine", "extraEnv", name) for name in EXTRA_VARIABLES),
        *(("interconnect", "env", name) for name in LINK_VARIABLES),
    ],
)
def test_a_variable_of_a_table_is_rejected(apply_spec: Any, section: str, field: str, name: str) -> None:
    table = EXTRA_VARIABLES if field == "extraEnv" else LINK_VARIABLES
    written = name.replace("*", "X")
    done = apply_spec(**{section: {field: [{"name": written, "value": "1"}]}})
    assert done.returncode != 0
    assert f"spec.{section}.{field}" in done.stderr
    assert f"{written} is not allowed here: {table[name]}" in done.stderr


def test_an_object_without_a_spec_is_refused(apply: Any) -> None:
    done = apply({**a_flash_object(), "metadata": {"name": "flash", "namespace": "default"}, "spec": None})
    assert "spec in body must be of type object" in done.stderr


BAD_NAMES = {
    "longer than the names of pods leave room for": ("x" * 53, "may not be more than 52"),
    "that begins with a digit, which a Service's may not": ("4flash", "begin it with a letter"),
    "with a dot, which a Service's may not have": ("flash.v4", "use only lower-case letters"),
}


@pytest.mark.parametrize(("name", "message"), BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_a_name_is_refused(apply_spec: Any, name: str, message: str) -> None:
    done = apply_spec(name)

    assert done.returncode != 0
    assert "metadata.name" in done.stderr
    assert message in done.stderr
