{{/* The same file in every chart, so that each can be installed alone; a test compares them. */}}

{{/* Name of the chart's objects: release and chart, or the release alone where it is called like the chart. */}}
{{- define "streetvision.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $full | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{/* Labels that select pods. Takes a dict: `context` (the root context), `component`. */}}
{{- define "streetvision.selectorLabels" -}}
app.kubernetes.io/name: {{ .context.Values.nameOverride | default .context.Chart.Name }}
app.kubernetes.io/instance: {{ .context.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of every object. Takes a dict: `context`, `component`. */}}
{{- define "streetvision.labels" -}}
{{ include "streetvision.selectorLabels" . }}
app.kubernetes.io/version: {{ .context.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: streetvision
app.kubernetes.io/managed-by: {{ .context.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .context.Chart.Name .context.Chart.Version | replace "+" "_" }}
{{- with .context.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Full name of an image, by digest where one is given. Takes a dict: `context`, `image`. */}}
{{- define "streetvision.image" -}}
{{- $global := .context.Values.global | default dict -}}
{{- $registry := $global.imageRegistry | default .image.registry -}}
{{- $name := printf "%s/%s" $registry .image.repository -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.image.tag | default .context.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{/* `imagePullSecrets:` of a pod, or nothing. Takes the root context. */}}
{{- define "streetvision.imagePullSecrets" -}}
{{- $global := .Values.global | default dict -}}
{{- with concat ($global.imagePullSecrets | default list) (.Values.imagePullSecrets | default list) | uniq -}}
imagePullSecrets:
{{ toYaml . }}
{{- end -}}
{{- end }}

{{/* Name of the chart's ServiceAccount. Takes the root context. */}}
{{- define "streetvision.serviceAccountName" -}}
{{- $own := .Values.serviceAccount.create | ternary (include "streetvision.fullname" .) "default" -}}
{{- .Values.serviceAccount.name | default $own -}}
{{- end }}

{{/* `securityContext` of a pod under Pod Security "restricted". */}}
{{- define "streetvision.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* `securityContext` of a container under Pod Security "restricted". */}}
{{- define "streetvision.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The object store as YAML (bucket, endpoint, region, existingSecret): the chart's own values over the global ones. */}}
{{- define "streetvision.objectStore" -}}
{{- $global := .Values.global | default dict -}}
{{- $store := dict -}}
{{- range $key, $value := $global.objectStore | default dict }}{{- if $value }}{{- $_ := set $store $key $value }}{{- end }}{{- end }}
{{- range $key, $value := .Values.objectStore | default dict }}{{- if $value }}{{- $_ := set $store $key $value }}{{- end }}{{- end }}
{{- toYaml $store -}}
{{- end }}

{{/* Environment of a container that reads or writes the object store by boto3. Takes the root context. */}}
{{- define "streetvision.objectStoreEnv" -}}
{{- $store := include "streetvision.objectStore" . | fromYaml -}}
{{- with $store.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with $store.region }}
- name: AWS_REGION
  value: {{ . | quote }}
- name: AWS_DEFAULT_REGION {{- /* boto3 reads this one alone */}}
  value: {{ . | quote }}
{{- end }}
{{- with $store.existingSecret }}
{{- range $key := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ $key }}
  valueFrom:
    secretKeyRef:
      name: {{ $store.existingSecret }}
      key: {{ $key }}
{{- end }}
{{- end }}
{{- end }}
