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
{{- end }}

{{- define "flash.p2pTestPriority" -}}
{{ include "flash.name" . }}-p2p-test
{{- end }}
