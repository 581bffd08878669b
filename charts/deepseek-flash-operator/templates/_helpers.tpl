{{- define "flash.name" -}}
{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "flash.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "flash.labels" -}}
{{ include "flash.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: deepseek-flash
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* With the digest the tag is for people: it does not decide which image is pulled. */}}
{{- define "flash.image" -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "flash.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "flash.name" .) }}
{{- end }}

{{- define "flash.labeller" -}}
{{ include "flash.name" . | trunc 43 | trimSuffix "-" }}-labeller
{{- end }}

{{- /* Not the operator's own pair: its Deployment and its Service must not find the labeller's pods. */}}
{{- define "flash.labellerSelector" -}}
app.kubernetes.io/name: deepseek-flash-labeller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "flash.labellerLabels" -}}
{{ include "flash.labellerSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: labeller
app.kubernetes.io/part-of: deepseek-flash
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "flash.activator" -}}
{{ include "flash.name" . | trunc 43 | trimSuffix "-" }}-activator
{{- end }}

{{- /* Not the operator's own pair, for the same reason. */}}
{{- define "flash.activatorSelector" -}}
app.kubernetes.io/name: deepseek-flash-activator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "flash.activatorLabels" -}}
{{ include "flash.activatorSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: activator
app.kubernetes.io/part-of: deepseek-flash
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "flash.p2pTestPriority" -}}
{{ include "flash.name" . }}-p2p-test
{{- end }}

{{/* The given ones, and one for cluster-autoscaler, which removes no node whose pods have local volumes unless it may. */}}
{{- define "flash.podAnnotations" -}}
{{- if not (hasKey . "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes") }}
cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes: tmp
{{- end }}
{{- with . }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What the operator may do in the namespaces that it watches. */}}
{{- define "flash.namespacedRules" -}}
- apiGroups: [inference.deepseekflash.dev]
  resources: [deepseekflashdeployments]
  # Create: dry runs of stored objects, to find the rules that they break after an upgrade of the CRD.
  verbs: [get, list, watch, create]
- apiGroups: [inference.deepseekflash.dev]
  resources: [deepseekflashdeployments/status]
  verbs: [patch]
# Nothing here is deleted: these go with their deployment.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch]
# The Jobs that restore the MTP heads of checkpoints, each beside its deployment.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch, create, patch, delete]
# The configuration of gates.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [list, watch, create, patch, delete]
# The pod templates that deployments run, so that a newer operator does not restart them.
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [list, watch, create, patch, delete]
# For engine updates that only change the flags of a pod's node.
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# Patch: the flags of a pod's node, as an annotation of the pod. Delete: pods that have ended.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch, delete]
# At zero the activator is an endpoint of a deployment's Service. Also without an activator: what is left of one is deleted.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, create, patch, delete]
# The autoscalers that spec.scaling asks for. Those of others are read, so that they are not fought.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, create, patch, delete]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list, create, patch, delete]
{{ include "flash.eventRules" . }}
{{- end }}

{{- define "flash.eventRules" -}}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [get, create, patch]
{{- end }}
