{{/* The claim of a miner's volume, or nothing where it lies in the pod. */}}
{{- define "miner.claim" -}}
{{- if and .Values.persistence.enabled (le (int .Values.replicas) 1) -}}
{{- .Values.persistence.existingClaim | default (include "streetvision.fullname" .) -}}
{{- end -}}
{{- end }}

{{/* Name of the Service of the operator's port. */}}
{{- define "miner.operatorName" -}}
{{- include "streetvision.fullname" . }}-operator
{{- end }}

{{/* The environment, which a test checks against the miner's own settings. */}}
{{- define "miner.env" -}}
{{- $store := include "streetvision.objectStore" . | fromYaml -}}
{{- $p := "STREETVISION_MINER_" }}
- {name: HOME, value: /tmp}
- {name: {{ $p }}SETTINGS_FILE, value: /settings/settings.json}
- {name: {{ $p }}WALLET_PATH, value: /wallets}
- {name: {{ $p }}WALLET_NAME, value: miner}
- {name: {{ $p }}HOTKEY_NAME, value: default}
- name: {{ $p }}GUARDED_PATHS
  value: {{ include "miner.guardedPaths" . }}
- {name: {{ $p }}NETWORK, value: {{ .Values.network }}}
{{- if ne (toString .Values.netuid) "" }}
- {name: {{ $p }}NETUID, value: {{ .Values.netuid | quote }}}
{{- end }}
{{- if eq .Values.network "mock" }}
- {name: {{ $p }}METAGRAPH_FILE, value: /metagraph/{{ .Values.mock.key }}}
{{- else }}
- {name: {{ $p }}METAGRAPH_CACHE, value: /data/metagraph.json}
{{- with .Values.chain.endpoints }}
- name: {{ $p }}CHAIN_ENDPOINTS
  value: {{ join "," . | quote }}
{{- end }}
- {name: {{ $p }}ANNOUNCE, value: {{ .Values.chain.announce | quote }}}
{{- with .Values.chain.announceIp }}
- {name: {{ $p }}ANNOUNCE_IP, value: {{ . | quote }}}
{{- end }}
- {name: {{ $p }}ANNOUNCE_PORT, value: {{ int .Values.chain.announcePort | default (int .Values.service.port) | quote }}}
{{- end }}
- name: {{ $p }}PREDICTOR_URL
  value: {{ tpl .Values.predictor.url . | quote }}
{{- with tpl .Values.fallback.url . }}
- name: {{ $p }}FALLBACK_URL
  value: {{ . | quote }}
{{- end }}
{{- with tpl .Values.shadow.url . }}
- name: {{ $p }}SHADOW_URL
  value: {{ . | quote }}
{{- end }}
- {name: {{ $p }}PORT, value: "8091"}
- {name: {{ $p }}METRICS_HOST, value: 0.0.0.0}
- {name: {{ $p }}METRICS_PORT, value: "9091"}
- {name: {{ $p }}DRAIN_S, value: {{ .Values.drainSeconds | quote }}}
- {name: {{ $p }}NONCE_FILE, value: /data/nonces}
- {name: {{ $p }}SPOOL_FOLDER, value: /data/predictions}
{{- if gt (int .Values.replicas) 1 }}
- name: {{ $p }}REPLICA
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
{{- else }}
- {name: {{ $p }}REPLICA, value: {{ include "streetvision.fullname" . }}}
{{- end }}
{{- with .Values.nonceStore.existingSecret }}
- name: {{ $p }}NONCE_SERVER
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: {{ $.Values.nonceStore.key }}}
{{- end }}
{{- if $store.bucket }}
- {name: {{ $p }}BUCKET, value: {{ $store.bucket }}}
- {name: {{ $p }}BUCKET_PREFIX, value: {{ .Values.predictionsPrefix }}}
{{- with $store.endpoint }}
- {name: {{ $p }}S3_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- include "streetvision.objectStoreEnv" . }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Every volume but the wallet's, which is searched anyway, by commas. */}}
{{- define "miner.guardedPaths" -}}
{{- $paths := list "/data" "/settings" -}}
{{- if eq .Values.network "mock" }}{{- $paths = append $paths "/metagraph" }}{{- end -}}
{{- range .Values.extraVolumeMounts }}{{- $paths = append $paths .mountPath }}{{- end -}}
{{- $paths | join "," -}}
{{- end }}

{{/* Port of the object store: that of its address, or its scheme's. */}}
{{- define "miner.objectStorePort" -}}
{{- $store := include "streetvision.objectStore" . | fromYaml -}}
{{- $url := urlParse ($store.endpoint | default "https://s3.amazonaws.com") -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $port | default (eq $url.scheme "http" | ternary "80" "443") -}}
{{- end }}

{{/* Refuses what cannot work or must not be, each in one sentence. */}}
{{- define "miner.guards" -}}
{{- if not .Values.hotkey.existingSecret }}
{{- fail "miner: hotkey.existingSecret is empty, expected the name of a Secret with the hotkey's file: kubectl create secret generic NAME --from-file=hotkey=FILE" }}
{{- end }}
{{- if not .Values.predictor.url }}
{{- fail "miner: predictor.url is empty, expected the address of a predictor, such as http://sv-roadwork-predictor" }}
{{- end }}
{{- if and (gt (int .Values.replicas) 1) (not .Values.nonceStore.existingSecret) }}
{{- fail (printf "miner: replicas is %d and each would take a challenge that another has answered: set nonceStore.existingSecret to a Secret with the address of a Redis server, or replicas to 1" (int .Values.replicas)) }}
{{- end }}
{{- if and (eq .Values.network "mock") (not .Values.mock.existingConfigMap) }}
{{- fail "miner: network is mock and mock.existingConfigMap is empty, expected a ConfigMap with the neurons" }}
{{- end }}
{{- if and (ne .Values.network "mock") .Values.mock.existingConfigMap }}
{{- fail (printf "miner: mock.existingConfigMap is %s and network is %s: expected the network mock, or no ConfigMap" .Values.mock.existingConfigMap .Values.network) }}
{{- end }}
{{- if and (gt (int .Values.service.nodePort) 0) (eq .Values.service.type "ClusterIP") }}
{{- fail (printf "miner: service.nodePort is %d and service.type is ClusterIP, which has none: set it to NodePort or LoadBalancer" (int .Values.service.nodePort)) }}
{{- end }}
{{- include "miner.tripwire" . }}
{{- end }}

{{/*
Refuses values that would bring a coldkey, a mnemonic or a whole wallet to a process that faces the internet. It reads what
the values name; what lies in a volume the miner itself searches when it starts.
*/}}
{{- define "miner.tripwire" -}}
{{- $named := dict "hotkey" .Values.hotkey "extraEnv" .Values.extraEnv "extraVolumes" .Values.extraVolumes "extraVolumeMounts" .Values.extraVolumeMounts "settings" .Values.settings "persistence.existingClaim" .Values.persistence.existingClaim }}
{{- range $key, $value := $named }}
{{- $found := regexFind "(?i)(cold[-_ ]?key(pub)?|mnemonic|seed[-_ ]?phrase|\\.bittensor)[^\"]*" (toJson $value) }}
{{- if $found }}
{{- fail (printf "miner: %s names %s, which has no place in a cluster: a miner needs its hotkey alone" $key $found) }}
{{- end }}
{{- end }}
{{- range .Values.extraVolumeMounts }}
{{- if or (eq (clean .mountPath) "/wallets") (hasPrefix "/wallets/" (clean .mountPath)) (eq (clean .mountPath) "/") }}
{{- fail (printf "miner: extraVolumeMounts has %s, where only the hotkey may lie" .mountPath) }}
{{- end }}
{{- end }}
{{- range .Values.extraVolumes }}
{{- if hasKey . "hostPath" }}
{{- fail (printf "miner: extraVolumes has %s, a folder of the node, where other keys may lie: expected a Secret, a ConfigMap or a claim" .name) }}
{{- end }}
{{- end }}
{{- end }}
