{{/* Refuses parts that do not fit together, each in one sentence. */}}
{{- define "umbrella.guards" -}}
{{- range $part, $on := dict "mlflow" (dig "metrics" "serviceMonitor" "enabled" false .Values.mlflow) "predictor" (dig "serviceMonitor" "enabled" false .Values.predictor) "miner" (dig "serviceMonitor" "enabled" false .Values.miner) }}
{{- if and $on $.Values.monitoring.enabled (get $.Values $part).enabled }}
{{- fail (printf "streetvision: the chart %s has a ServiceMonitor of its own and the chart monitoring makes another, so that every sample would count twice: switch one of them off" $part) }}
{{- end }}
{{- end }}
{{- if .Values.miner.enabled }}
{{- $names := dict "predictor" "" "fallback" "" }}
{{- with .Subcharts.predictor }}
{{- $_ := set $names "predictor" (include "predictor.name" .) }}
{{- if .Values.fallback.enabled }}{{- $_ := set $names "fallback" (include "predictor.fallbackName" .) }}{{- end }}
{{- end }}
{{- range $key, $name := $names }}
{{- include "umbrella.address" (dict "context" $ "given" (get $.Values.miner $key).url "what" (printf "miner.%s.url" $key) "own" (printf "http://{{ .Release.Name }}-roadwork%s-predictor" (ternary "-fallback" "" (eq $key "fallback"))) "is" (empty $name | ternary "" (printf "http://%s-predictor" $name))) }}
{{- end }}
{{- end }}
{{- if and .Values.pipelines.enabled .Values.pipelines.rollout.enabled }}
{{- $is := "" }}
{{- with .Subcharts.mlflow }}{{- $is = printf "http://%s.%s:%v" (include "streetvision.fullname" .) $.Release.Namespace .Values.service.port }}{{- end }}
{{- include "umbrella.address" (dict "context" . "given" .Values.pipelines.mlflow.url "what" "pipelines.mlflow.url" "own" "http://{{ .Release.Name }}-mlflow.{{ .Release.Namespace }}:5000" "is" $is) }}
{{- if not (or .Values.predictor.enabled .Values.pipelines.rollout.release) }}
{{- fail "streetvision: pipelines.rollout.enabled is true and this release has no predictor to roll out to: set pipelines.rollout.release to one that has, or pipelines.rollout.enabled to false" }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Refuses an address that is meant to be a part's of this release, by the default of values.yaml, and is not. Takes a dict:
`context`, `what` (the value's key), `given` (the value), `own` (its default), `is` (the part's address, empty where it is off).
*/}}
{{- define "umbrella.address" -}}
{{- if eq .given .own }}
{{- $address := tpl .given .context }}
{{- if not .is }}
{{- fail (printf "streetvision: %s is %s, a part of this release that is switched off: set it to the address of another, or to nothing where it may be" .what $address) }}
{{- else if ne $address .is }}
{{- fail (printf "streetvision: %s is %s, expected %s, which is what this release calls it: set it, or choose names that are shorter or the chart's own" .what $address .is) }}
{{- end }}
{{- end }}
{{- end }}
