{{/* The backend that the values choose: `sqlite` or `postgresql`. */}}
{{- define "mlflow.backend" -}}
{{- empty .Values.database.existingSecret | ternary "sqlite" "postgresql" -}}
{{- end }}

{{/* `true` where something lies on the volume: SQLite, or artifacts where there is no bucket. */}}
{{- define "mlflow.usesVolume" -}}
{{- $store := include "streetvision.objectStore" . | fromYaml -}}
{{- if or (eq (include "mlflow.backend" .) "sqlite") (not $store.bucket) -}}true{{- end -}}
{{- end }}

{{/* Where artifacts lie: in the bucket, or on the volume. */}}
{{- define "mlflow.artifacts" -}}
{{- $store := include "streetvision.objectStore" . | fromYaml -}}
{{- if $store.bucket }}{{ printf "s3://%s/%s" $store.bucket .Values.artifactsPrefix }}{{ else }}/data/artifacts{{ end -}}
{{- end }}

{{/* Name of the volume's claim. */}}
{{- define "mlflow.claim" -}}
{{- .Values.persistence.existingClaim | default (include "streetvision.fullname" .) -}}
{{- end }}

{{/* Names that clients ask for, with every port and without, by commas. */}}
{{- define "mlflow.allowedHosts" -}}
{{- $name := include "streetvision.fullname" . -}}
{{- $namespaced := printf "%s.%s" $name .Release.Namespace -}}
{{- $names := list $name $namespaced (printf "%s.svc" $namespaced) (printf "%s.svc.%s" $namespaced .Values.clusterDomain) -}}
{{- $names = concat $names (list "localhost" "127.0.0.1") -}}
{{- if .Values.ingress.enabled }}{{- $names = concat $names .Values.ingress.hosts }}{{- end -}}
{{- $hosts := list -}}
{{- range $names }}{{- $hosts = concat $hosts (list . (printf "%s:*" .)) }}{{- end -}}
{{- if .Values.metrics.enabled }}{{- $hosts = append $hosts "$(POD_IP):5000" }}{{- end -}}
{{- concat $hosts .Values.server.allowedHosts | join "," -}}
{{- end }}

{{/* Origins of pages whose requests may change things, by commas. */}}
{{- define "mlflow.allowedOrigins" -}}
{{- $origins := .Values.server.allowedOrigins -}}
{{- if .Values.ingress.enabled }}
{{- $scheme := empty .Values.ingress.tlsSecret | ternary "http" "https" -}}
{{- range .Values.ingress.hosts }}{{- $origins = append $origins (printf "%s://%s" $scheme .) }}{{- end }}
{{- end -}}
{{- $origins | join "," -}}
{{- end }}

{{/* Environment of whatever opens the database: its address, never in an argument. */}}
{{- define "mlflow.databaseEnv" -}}
- name: MLFLOW_BACKEND_STORE_URI
  {{- if eq (include "mlflow.backend" .) "postgresql" }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.existingSecret }}
      key: {{ .Values.database.uriKey }}
  {{- else }}
  value: sqlite:////data/mlflow.db
  {{- end }}
- name: MLFLOW_DISABLE_TELEMETRY
  value: "true"
- name: HOME
  value: /tmp
{{- end }}

{{/* Environment of the administrator and of the sessions' key. */}}
{{- define "mlflow.authEnv" -}}
{{- with .Values.auth.existingSecret }}
- name: MLFLOW_AUTH_CONFIG_PATH
  value: /auth/basic_auth.ini
- name: MLFLOW_AUTH_ADMIN_USERNAME
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: MLFLOW_TRACKING_USERNAME}
- name: MLFLOW_AUTH_ADMIN_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: MLFLOW_TRACKING_PASSWORD}
- name: MLFLOW_FLASK_SERVER_SECRET_KEY
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: MLFLOW_FLASK_SERVER_SECRET_KEY}
{{- end }}
{{- end }}

{{/* Name of the backup's CronJob, which may have 52 characters. */}}
{{- define "mlflow.backupName" -}}
{{- include "streetvision.fullname" . | trunc 45 | trimSuffix "-" }}-backup
{{- end }}

{{/* Folder of the backups: `s3://...`. */}}
{{- define "mlflow.backupFolder" -}}
{{- $store := include "streetvision.objectStore" . | fromYaml -}}
{{- $prefix := .Values.backup.prefix | default (printf "mlflow-backups/%s-%s" .Release.Namespace (include "streetvision.fullname" .)) -}}
{{- printf "s3://%s/%s" $store.bucket $prefix -}}
{{- end }}

{{/* Placement of a pod, indented as its fields. */}}
{{- define "mlflow.placement" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Refuses what cannot work, each in one sentence. */}}
{{- define "mlflow.guards" -}}
{{- $store := include "streetvision.objectStore" . | fromYaml -}}
{{- $sqlite := eq (include "mlflow.backend" .) "sqlite" -}}
{{- if and $sqlite (gt (int .Values.replicas) 1) }}
{{- fail (printf "mlflow: replicas is %d and the database is SQLite, which only one server may open: set replicas to 1, or database.existingSecret to a Secret with the address of a PostgreSQL" (int .Values.replicas)) }}
{{- end }}
{{- if and (not $store.bucket) (gt (int .Values.replicas) 1) }}
{{- fail (printf "mlflow: replicas is %d and artifacts lie on the volume of one server: set objectStore.bucket, or replicas to 1" (int .Values.replicas)) }}
{{- end }}
{{- if and .Values.backup.enabled (not $store.bucket) }}
{{- fail "mlflow: backup.enabled is true and there is no bucket to copy to: set objectStore.bucket, or backup.enabled to false" }}
{{- end }}
{{- if and .Values.backup.enabled $sqlite (has "ReadWriteOncePod" .Values.persistence.accessModes) }}
{{- fail "mlflow: backup.enabled is true and persistence.accessModes has ReadWriteOncePod, which lets no second pod read the database: expected ReadWriteOnce or ReadWriteMany" }}
{{- end }}
{{- if and .Values.backup.enabled $sqlite (not .Values.persistence.enabled) }}
{{- fail "mlflow: backup.enabled is true and the database is SQLite in the pod itself, where a backup cannot reach it: set persistence.enabled to true" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "mlflow: ingress.enabled is true and ingress.hosts is empty, expected the names that clients ask for: MLflow refuses every other" }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) }}
{{- fail "mlflow: metrics.serviceMonitor.enabled is true and metrics.enabled is false: set both to true, or the first to false" }}
{{- end }}
{{- end }}

{{/* Port of the object store: that of its address, or its scheme's. */}}
{{- define "mlflow.objectStorePort" -}}
{{- $store := include "streetvision.objectStore" . | fromYaml -}}
{{- $url := urlParse ($store.endpoint | default "https://s3.amazonaws.com") -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (eq $url.scheme "http" | ternary "80" "443") -}}
{{- end }}
