{{/*
Names are fixed and do not follow the release name: the resource is cluster-wide, so there is one
installation to a cluster, and runbooks, dashboards and certificates can name its parts.
*/}}

{{- define "llmr.labels" -}}
app.kubernetes.io/name: llm-rollouts
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: llm-rollouts
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The labels that select: they never change, so an upgrade can keep its Deployments. */}}
{{- define "llmr.selector" -}}
app.kubernetes.io/name: llm-rollouts
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* (dict "root" $ "image" .Values.operator.image): registry/repository:tag, or @digest. */}}
{{- define "llmr.image" -}}
{{- $name := .image.repository -}}
{{- with .root.Values.imageRegistry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if .image.digest -}}
{{ $name }}@{{ .image.digest }}
{{- else -}}
{{ $name }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "llmr.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "llmr.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Soft: on a single node both replicas still run. */}}
{{- define "llmr.spread" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
  - weight: 100
    podAffinityTerm:
      topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels:
          {{- include "llmr.selector" . | nindent 10 }}
{{- end }}

{{/* The files with which a gateway starts, as llmrollouts.traffic.bootstrap prints them. */}}
{{- define "llmr.gatewayFiles" -}}
{{- $root := . -}}
{{- range $path, $_ := .Files.Glob "files/gateway/*.yaml" }}
{{ base $path }}: |
  {{- tpl ($root.Files.Get $path) $root | nindent 2 }}
{{- end }}
drain.py: |
  {{- .Files.Get "files/gateway/drain.py" | nindent 2 }}
{{- end }}
