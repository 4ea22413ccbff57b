{{/* Name of the InferenceService; `-fallback-predictor` and a pod's own part must still fit behind it. */}}
{{- define "predictor.name" -}}
{{- .Values.fullnameOverride | default (printf "%s-roadwork" .Release.Name) | trunc 44 | trimSuffix "-" -}}
{{- end }}

{{/* Name of the fallback's InferenceService. */}}
{{- define "predictor.fallbackName" -}}
{{- include "predictor.name" . }}-fallback
{{- end }}

{{/* Name of the predictors' ServiceAccount. */}}
{{- define "predictor.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "predictor.name" .) "default") -}}
{{- end }}

{{/* Name of the proof's objects. */}}
{{- define "predictor.proofName" -}}
{{- include "predictor.name" . }}-proof
{{- end }}

{{/* Name of the claim of built engines, or nothing where they lie in the pod. */}}
{{- define "predictor.engineClaim" -}}
{{- if .Values.engineCache.existingClaim -}}
{{- .Values.engineCache.existingClaim -}}
{{- else if .Values.engineCache.persistent -}}
{{- include "predictor.name" . }}-engines
{{- end -}}
{{- end }}

{{/* The image for processors. Takes the root context. */}}
{{- define "predictor.cpuImage" -}}
{{- $digest := eq .Values.profile "gpu" | ternary .Values.fallback.image.digest .Values.image.digest -}}
{{- $image := merge (dict "digest" $digest) (omit .Values.image "digest") -}}
{{- if eq .Values.profile "gpu" }}{{- $_ := set $image "tag" (.Values.image.tag | trimSuffix "-tensorrt") }}{{- end -}}
{{- include "streetvision.image" (dict "context" . "image" $image) -}}
{{- end }}

{{/* The image of the profile. Takes the root context. */}}
{{- define "predictor.image" -}}
{{- if eq .Values.profile "gpu" -}}
{{- $tag := .Values.image.tag | default (printf "%s-tensorrt" .Chart.AppVersion) -}}
{{- include "streetvision.image" (dict "context" . "image" (merge (dict "tag" $tag) .Values.image)) -}}
{{- else -}}
{{- include "predictor.cpuImage" . -}}
{{- end -}}
{{- end }}

{{/*
ServingRuntime and InferenceService of one predictor. Takes a dict: `context`, `component` (predictor or fallback), `name`,
`replicas`, `maxReplicas`, `gpu` (whether on a GPU), `resources`.

The runtime holds what runs, the service which model and how many. All of it is named: nothing is chosen by KServe.
*/}}
{{- define "predictor.objects" -}}
{{- $values := .context.Values }}
{{- $labels := dict "context" .context "component" .component }}
apiVersion: serving.kserve.io/v1alpha1
kind: ServingRuntime
metadata:
  name: {{ .name }}
  namespace: {{ .context.Release.Namespace }}
  labels:
    {{- include "streetvision.labels" $labels | nindent 4 }}
spec:
  supportedModelFormats:
    - name: onnx
      version: "1"
      autoSelect: false
  protocolVersions: [v2]
  multiModel: false
  {{- with include "streetvision.imagePullSecrets" .context }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: kserve-container
      image: {{ .gpu | ternary (include "predictor.image" .context) (include "predictor.cpuImage" .context) }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args:
        - --model_name={{ $values.model.name }}
        - --model-dir=/mnt/models
        - --http_port=8080
        - --grpc_port=8081
        - --engine={{ .gpu | ternary "tensorrt" "onnx" }}
        - --engine-cache=/engines
        - --drain-s={{ $values.drainSeconds }}
        {{- with $values.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      env:
        - {name: HOME, value: /tmp}
        {{- with $values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {name: http1, containerPort: 8080, protocol: TCP}
        - {name: grpc, containerPort: 8081, protocol: TCP}
      startupProbe:
        httpGet: {path: /v2/health/ready, port: 8080}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: {{ max 1 (div (.gpu | ternary $values.gpu.startupSeconds $values.startupSeconds | int) 2) }}
      readinessProbe:
        httpGet: {path: /v2/health/ready, port: 8080}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 2
      livenessProbe:
        httpGet: {path: /v2/health/live, port: 8080}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      resources:
        {{- if .gpu }}
        requests:
          {{- toYaml .resources.requests | nindent 10 }}
        limits:
          {{- toYaml .resources.limits | nindent 10 }}
          {{ $values.gpu.resource }}: {{ $values.gpu.count | quote }}
        {{- else }}
        {{- toYaml .resources | nindent 8 }}
        {{- end }}
      securityContext:
        {{- include "streetvision.containerSecurityContext" .context | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: engines, mountPath: /engines}
        {{- with $values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: {{ $values.scratchSize }}}
    - name: engines
      {{- $claim := include "predictor.engineClaim" .context }}
      {{- if and .gpu $claim }}
      persistentVolumeClaim:
        claimName: {{ $claim }}
      {{- else }}
      emptyDir: {sizeLimit: {{ .gpu | ternary $values.engineCache.size "64Mi" }}}
      {{- end }}
    {{- with $values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {{ .name }}
  namespace: {{ .context.Release.Namespace }}
  labels:
    {{- include "streetvision.labels" $labels | nindent 4 }}
  annotations:
    serving.kserve.io/deploymentMode: Standard
    serving.kserve.io/autoscalerClass: hpa
spec:
  predictor:
    {{- with $values.podLabels }}
    labels:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $values.podAnnotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    minReplicas: {{ .replicas }}
    maxReplicas: {{ max (int .replicas) (int .maxReplicas) }}
    scaleMetric: cpu
    scaleTarget: {{ $values.autoscaling.targetCPUPercent }}
    deploymentStrategy:
      type: RollingUpdate
      rollingUpdate:
        {{- /* a further pod would wait for ever where every GPU is taken */}}
        maxSurge: {{ .gpu | ternary 0 1 }}
        maxUnavailable: {{ .gpu | ternary 1 0 }}
    serviceAccountName: {{ include "predictor.serviceAccountName" .context }}
    automountServiceAccountToken: false
    enableServiceLinks: false
    terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
    {{- with include "streetvision.imagePullSecrets" .context }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- if .gpu }}
    {{- with $values.gpu.runtimeClassName }}
    runtimeClassName: {{ . }}
    {{- end }}
    {{- end }}
    {{- with $values.priorityClassName }}
    priorityClassName: {{ . }}
    {{- end }}
    {{- with .gpu | ternary (mergeOverwrite (dict) $values.nodeSelector $values.gpu.nodeSelector) $values.nodeSelector }}
    nodeSelector:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .gpu | ternary (concat $values.tolerations $values.gpu.tolerations) $values.tolerations }}
    tolerations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $values.affinity }}
    affinity:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $values.topologySpreadConstraints }}
    topologySpreadConstraints:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    securityContext:
      {{- include "streetvision.podSecurityContext" .context | nindent 6 }}
    model:
      modelFormat:
        name: onnx
        version: "1"
      protocolVersion: v2
      runtime: {{ .name }}
      storageUri: {{ $values.model.uri }}
{{- end }}

{{/* A PodDisruptionBudget, where there are pods enough to keep one. Takes a dict: `context`, `component`, `name`, `replicas`. */}}
{{- define "predictor.budget" -}}
{{- $budget := .context.Values.podDisruptionBudget }}
{{- if and $budget.enabled (gt (int .replicas) 1) }}
{{- $labels := dict "context" .context "component" .component }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  namespace: {{ .context.Release.Namespace }}
  labels:
    {{- include "streetvision.labels" $labels | nindent 4 }}
spec:
  maxUnavailable: {{ $budget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "streetvision.selectorLabels" $labels | nindent 6 }}
{{- end }}
{{- end }}

{{/* Port of the object store: that of its address, or its scheme's. */}}
{{- define "predictor.objectStorePort" -}}
{{- $store := include "streetvision.objectStore" . | fromYaml -}}
{{- $url := urlParse ($store.endpoint | default "https://s3.amazonaws.com") -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (eq $url.scheme "http" | ternary "80" "443") -}}
{{- end }}

{{/* Refuses what cannot work, each in one sentence. */}}
{{- define "predictor.guards" -}}
{{- $expected := "expected an address whose content never changes, s3://BUCKET/PREFIX/SHA256/, pvc://CLAIM/PATH/SHA256 or hf://OWNER/NAME:COMMIT" -}}
{{- $uri := .Values.model.uri -}}
{{- if not $uri }}
{{- fail (printf "predictor: model.uri is empty, %s: take it from the model's version in the registry" $expected) }}
{{- end }}
{{- if not (or (regexMatch "^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/([^/ ]+/)*[0-9a-f]{64}/?$" $uri) (regexMatch "^pvc://[a-z0-9][a-z0-9.-]*/([^/ ]+/)*[0-9a-f]{64}/?$" $uri) (regexMatch "^hf://[^/: ]+/[^/: ]+:[0-9a-f]{40}$" $uri)) }}
{{- fail (printf "predictor: model.uri is %s, %s" $uri $expected) }}
{{- end }}
{{- if gt (len .Values.fullnameOverride) 44 }}
{{- fail (printf "predictor: fullnameOverride is %s, expected 44 characters at most, as KServe adds to it" .Values.fullnameOverride) }}
{{- end }}
{{- if and (gt (int .Values.autoscaling.maxReplicas) 0) (lt (int .Values.autoscaling.maxReplicas) (int .Values.replicas)) }}
{{- fail (printf "predictor: autoscaling.maxReplicas is %d and replicas is %d: expected at least as many, or 0 for no more" (int .Values.autoscaling.maxReplicas) (int .Values.replicas)) }}
{{- end }}
{{- if and (eq .Values.profile "cpu") (include "predictor.engineClaim" .) }}
{{- fail "predictor: engineCache names a claim and profile is cpu, which builds no engines: set profile to gpu, or engineCache.persistent to false" }}
{{- end }}
{{- $slowest := eq .Values.profile "gpu" | ternary .Values.gpu.startupSeconds .Values.startupSeconds | int -}}
{{- if and .Values.proof.enabled (lt (int .Values.proof.timeoutSeconds) $slowest) }}
{{- fail (printf "predictor: proof.timeoutSeconds is %d and a start may take %d s: expected more, as a release would fail that is still starting" (int .Values.proof.timeoutSeconds) $slowest) }}
{{- end }}
{{- end }}
