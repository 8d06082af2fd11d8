{{- /* Names and labels. Nothing else is named anywhere in this chart. */ -}}

{{- define "osworld-env.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "osworld-env.operator" -}}
{{- printf "%s-operator" (include "osworld-env.fullname" .) -}}
{{- end -}}

{{- define "osworld-env.node" -}}
{{- printf "%s-node" (include "osworld-env.fullname" .) -}}
{{- end -}}

{{- define "osworld-env.nodeSelector" -}}
app.kubernetes.io/name: osworld-env
app.kubernetes.io/component: node
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "osworld-env.serviceAccount" -}}
{{- default (include "osworld-env.operator" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- /* The operator's pods are found by these two in pools' NetworkPolicies. */ -}}
{{- define "osworld-env.operatorSelector" -}}
app.kubernetes.io/name: osworld-env
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "osworld-env.labels" -}}
app.kubernetes.io/name: osworld-env
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "osworld-env.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "osworld-env.testNamespace" -}}
{{- default .Release.Namespace .Values.test.namespace -}}
{{- end -}}
