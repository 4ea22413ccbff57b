{{/* Release and namespace that are watched. */}}
{{- define "monitoring.release" -}}{{ .Values.release | default .Release.Name }}{{- end }}
{{- define "monitoring.namespace" -}}{{ .Values.namespace | default .Release.Namespace }}{{- end }}

{{/* Matchers of the metrics of one part. Takes a dict: `context`, `part`. */}}
{{- define "monitoring.matchers" -}}
namespace="{{ include "monitoring.namespace" .context }}",release="{{ include "monitoring.release" .context }}",part="{{ .part }}"
{{- end }}

{{/* A ServiceMonitor. Takes a dict: `context`, `part`, `selector` (labels beside the release's), `endpoint`. */}}
{{- define "monitoring.serviceMonitor" -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ include "streetvision.fullname" .context }}-{{ .part }}
  namespace: {{ .context.Release.Namespace }}
  labels:
    {{- include "streetvision.labels" (dict "context" .context "component" .part) | nindent 4 }}
    {{- with .context.Values.serviceMonitors.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  namespaceSelector:
    matchNames: [{{ include "monitoring.namespace" .context }}]
  selector:
    matchLabels:
      app.kubernetes.io/instance: {{ include "monitoring.release" .context }}
      {{- toYaml .selector | nindent 6 }}
  endpoints:
    - path: /metrics
      interval: {{ .context.Values.serviceMonitors.interval }}
      relabelings:
        - {targetLabel: release, replacement: {{ include "monitoring.release" .context }}}
        - {targetLabel: part, replacement: {{ .part }}}
      {{- toYaml .endpoint | nindent 6 }}
{{- end }}
