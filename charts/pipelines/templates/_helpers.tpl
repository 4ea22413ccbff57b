{{/* Name of the release's part, within the characters that its kind may have. Takes a dict: `context`, `part`, `limit`. */}}
{{- define "pipelines.name" -}}
{{- $room := sub (int .limit) (add (len .part) 1) | int -}}
{{- include "streetvision.fullname" .context | trunc $room | trimSuffix "-" }}-{{ .part -}}
{{- end }}

{{- define "pipelines.stepsAccount" -}}
{{- .Values.steps.serviceAccount.name | default (include "pipelines.name" (dict "context" . "part" "steps" "limit" 63)) -}}
{{- end }}

{{- define "pipelines.rolloutName" -}}
{{- include "pipelines.name" (dict "context" . "part" "rollout" "limit" 52) -}}
{{- end }}

{{- define "pipelines.rolloutAccount" -}}
{{- .Values.rollout.serviceAccount.name | default (include "pipelines.rolloutName" .) -}}
{{- end }}

{{/* Parameters of every recurring run: what the chart knows, under what the values say. */}}
{{- define "pipelines.parameters" -}}
{{- $store := include "streetvision.objectStore" . | fromYaml -}}
{{- $known := dict -}}
{{- with .Values.mlflow.url }}{{- $_ := set $known "tracking_uri" (tpl . $) }}{{- end -}}
{{- with $store.bucket }}{{- $_ := set $known "models_uri" (printf "s3://%s/models/roadwork" .) }}{{- end -}}
{{- if gt (int .Values.steps.gpus) 0 }}{{- $_ := set $known "gpus" (int .Values.steps.gpus | toString) }}{{- end -}}
{{- with .Values.steps.nodeSelector }}{{- $_ := set $known "node_selector" . }}{{- end -}}
{{- if .Values.rollout.enabled }}
{{- $_ := set $known "rollout" (printf "%s/%s" .Release.Namespace (include "pipelines.rolloutName" .)) }}
{{- end -}}
{{- toYaml (merge (deepCopy .Values.parameters) $known) -}}
{{- end }}

{{/* Environment by which `python -m pipelines` finds Kubeflow and names its images. */}}
{{- define "pipelines.env" -}}
- name: HOME
  value: /tmp
- name: STREETVISION_KFP_HOST
  value: {{ .Values.kfp.host }}
- name: STREETVISION_KFP_NAMESPACE
  value: {{ .Values.kfp.namespace }}
- name: STREETVISION_KFP_TIMEOUT_S
  value: {{ .Values.kfp.timeoutSeconds | quote }}
- name: STREETVISION_KFP_EXPERIMENT
  value: {{ .Values.kfp.experiment | quote }}
- name: STREETVISION_KFP_SERVICE_ACCOUNT
  value: {{ include "pipelines.stepsAccount" . }}
- name: STREETVISION_KFP_OWNER
  value: {{ .Release.Namespace }}.{{ include "streetvision.fullname" . }}
- name: STREETVISION_KFP_PARAMETERS
  value: /etc/streetvision/parameters.yaml
{{- with .Values.kfp.pipelineRoot }}
- name: STREETVISION_KFP_PIPELINE_ROOT
  value: {{ . }}
{{- end }}
{{- if .Values.kfp.tokenAudience }}
- name: STREETVISION_KFP_TOKEN_FILE
  value: /var/run/secrets/kfp/token
{{- end }}
{{- $registry := (.Values.global | default dict).imageRegistry | default .Values.image.registry }}
{{- $prefix := printf "%s/%s" $registry (dir .Values.image.repository) }}
{{- if or .Values.image.tag (ne $prefix "docker.io/streetvision") }}
- name: STREETVISION_IMAGE_PREFIX
  value: {{ $prefix }}
- name: STREETVISION_IMAGE_TAG
  value: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A container of `python -m pipelines`. Takes a dict: `context`, `name`, `args`. */}}
{{- define "pipelines.container" -}}
name: {{ .name }}
image: {{ include "streetvision.image" (dict "context" .context "image" .context.Values.image) }}
imagePullPolicy: {{ .context.Values.image.pullPolicy }}
command: [python, -m, pipelines]
args:
  {{- toYaml .args | nindent 2 }}
env:
  {{- include "pipelines.env" .context | nindent 2 }}
resources:
  {{- toYaml .context.Values.resources | nindent 2 }}
securityContext:
  {{- include "streetvision.containerSecurityContext" . | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: config, mountPath: /etc/streetvision, readOnly: true}
  {{- if .context.Values.kfp.tokenAudience }}
  - {name: token, mountPath: /var/run/secrets/kfp, readOnly: true}
  {{- end }}
  {{- with .context.Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* What pods of `python -m pipelines` have in common. Takes the root context. */}}
{{- define "pipelines.pod" -}}
restartPolicy: Never
serviceAccountName: {{ include "streetvision.serviceAccountName" . }}
automountServiceAccountToken: false
{{ include "pipelines.placement" . }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 256Mi}
  - name: config
    configMap:
      name: {{ include "streetvision.fullname" . }}
  {{- with .Values.kfp.tokenAudience }}
  - name: token
    projected:
      sources:
        - serviceAccountToken: {path: token, audience: {{ . }}, expirationSeconds: 3600}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Its name, by its content. Takes the root context. */}}
{{- define "pipelines.workspaceJobName" -}}
{{- $content := include "pipelines.workspaceJob" . | sha256sum | trunc 8 -}}
{{- include "pipelines.name" (dict "context" . "part" (printf "workspace-%s" $content) "limit" 63) -}}
{{- end }}

{{/* Spec of the Job that makes the workspace ready. Takes the root context. */}}
{{- define "pipelines.workspaceJob" -}}
backoffLimit: 2
activeDeadlineSeconds: 900
template:
  metadata:
    {{- include "pipelines.podMetadata" (dict "context" . "component" "workspace") | nindent 4 }}
  spec:
    restartPolicy: Never
    automountServiceAccountToken: false
    {{- /* on the nodes of the GPU steps, so that the volume comes to be in their zone */}}
    {{- $tolerations := append .Values.tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") }}
    {{- $nodes := .Values.steps.nodeSelector | default .Values.nodeSelector }}
    {{- $placed := merge (dict "nodeSelector" $nodes "tolerations" $tolerations) (omit .Values "nodeSelector" "tolerations") }}
    {{- include "pipelines.placement" (dict "Values" $placed) | nindent 4 }}
    containers:
      - name: workspace
        image: {{ include "streetvision.image" (dict "context" . "image" .Values.image) }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        command: [sh, -c, "touch /workspace/.writable && rm /workspace/.writable && df -h /workspace"]
        resources:
          requests: {cpu: 10m, memory: 16Mi}
          limits: {memory: 64Mi}
        securityContext:
          {{- include "streetvision.containerSecurityContext" . | nindent 10 }}
        volumeMounts:
          - {name: tmp, mountPath: /tmp}
          - {name: workspace, mountPath: /workspace}
    volumes:
      - name: tmp
        emptyDir: {sizeLimit: 16Mi}
      - name: workspace
        persistentVolumeClaim:
          claimName: streetvision-workspace
{{- end }}

{{/* Fields of every pod of the chart. */}}
{{- define "pipelines.placement" -}}
enableServiceLinks: false
{{- with include "streetvision.imagePullSecrets" . }}
{{ . }}
{{- end }}
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
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "streetvision.podSecurityContext" . | nindent 2 }}
{{- end }}

{{/* Labels and annotations of a pod. Takes a dict: `context`, `component`. */}}
{{- define "pipelines.podMetadata" -}}
labels:
  {{- include "streetvision.labels" . | nindent 2 }}
  {{- with .context.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .context.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Refuses what cannot work, each in one sentence. */}}
{{- define "pipelines.guards" -}}
{{- $store := include "streetvision.objectStore" . | fromYaml -}}
{{- if and .Values.rollout.enabled (not .Values.mlflow.url) }}
{{- fail "pipelines: rollout.enabled is true and mlflow.url is empty, expected the address of the registry: set mlflow.url, or rollout.enabled to false" }}
{{- end }}
{{- $names := list -}}
{{- range .Values.recurringRuns }}
{{- if has .name $names }}
{{- fail (printf "pipelines: two entries of recurringRuns are called `%s`, expected names of their own" .name) }}
{{- end }}
{{- $names = append $names .name -}}
{{- $given := merge (deepCopy (.parameters | default dict)) (include "pipelines.parameters" $ | fromYaml) -}}
{{- range $parameter, $value := dict "tracking_uri" "mlflow.url" "models_uri" "objectStore.bucket" "submitted_by" "parameters.submitted_by" }}
{{- if not (get $given $parameter) }}
{{- fail (printf "pipelines: the recurring run `%s` has no parameter %s: set %s, or leave the run out" (last $names) $parameter $value) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.kfp.pipelineRoot (not (regexMatch "^(s3|gs|minio)://" .Values.kfp.pipelineRoot)) }}
{{- fail (printf "pipelines: kfp.pipelineRoot is `%s`, expected s3://BUCKET/FOLDER" .Values.kfp.pipelineRoot) }}
{{- end }}
{{- end }}
