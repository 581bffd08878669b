"""Names that are a contract: with the cluster, with node administrators, and between the images."""

GROUP = "inference.deepseekflash.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "DeepSeekFlashDeployment"
LIST_KIND = f"{KIND}List"
SINGULAR = "deepseekflashdeployment"
PLURAL = "deepseekflashdeployments"
SHORT_NAMES = ("dsf",)

LABEL_PREFIX = "deepseekflash.dev/"
DEPLOYMENT_LABEL = f"{LABEL_PREFIX}deployment"
ENGINE_FLAGS_ANNOTATION = f"{LABEL_PREFIX}engine-flags"
APPLIED_HASH_ANNOTATION = f"{LABEL_PREFIX}applied-hash"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"

FIELD_MANAGER = "flash-operator"
STATUS_FIELD_MANAGER = "flash-operator-status"
PODS_FIELD_MANAGER = "flash-operator-pods"
