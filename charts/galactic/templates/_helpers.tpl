{{/* Names are fixed: a cluster has kinds, webhooks and the CNI plugin once. Context of all templates: a dict with root,
     component, and the component's values. */}}
{{- define "galactic.selector" -}}
app.kubernetes.io/name: galactic
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "galactic.labels" -}}
{{ include "galactic.selector" . }}
app.kubernetes.io/part-of: galactic
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "galactic.metadata" -}}
name: galactic-{{ .component }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "galactic.labels" . | nindent 2 }}
{{- end -}}

{{- define "galactic.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}

{{/* Metadata of pods; the selector's labels cannot be overridden. */}}
{{- define "galactic.podMetadata" -}}
{{- $selector := include "galactic.selector" . | fromYaml -}}
labels:
  {{- merge $selector (deepCopy .values.podLabels) | toYaml | nindent 2 }}
{{- $annotations := merge (dict) (deepCopy .values.podAnnotations) -}}
{{- with .checksum }}{{ $_ := set $annotations "galactic.datumapis.com/configuration" (sha256sum .) }}{{ end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Tolerations as given, and of Galactic's own taint: the programs that remove it must run on tainted nodes. */}}
{{- define "galactic.tolerations" -}}
{{- prepend (. | default list) (dict "key" "galactic.datumapis.com/agent-not-ready" "operator" "Exists") | toYaml -}}
{{- end -}}

{{/* Scheduling of a pod. Without an affinity of its own, replicas prefer different nodes. */}}
{{- define "galactic.scheduling" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .values.affinity }}
affinity:
  {{- toYaml .values.affinity | nindent 2 }}
{{- else if .spread }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "galactic.selector" . | nindent 14 }}
{{- end }}
tolerations:
  {{- include "galactic.tolerations" .values.tolerations | nindent 2 }}
{{- end -}}

{{/* Security context of a container without privileges. */}}
{{- define "galactic.confined" -}}
{{- $ours := dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "allowPrivilegeEscalation" false
      "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL"))
      "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- mergeOverwrite $ours (deepCopy (.containerSecurityContext | default dict)) | toYaml -}}
{{- end -}}

{{/* Takes our variables and extraEnv: a variable of extraEnv replaces ours, also by its old name. Each name is there once. */}}
{{- define "galactic.variables" -}}
{{- $oldNames := dict "GALACTIC_SRV6_SPACE" "GALACTIC_SRV6_BLOCK" "GALACTIC_GUARD" "GALACTIC_DROP_EXTERNAL_SIDS" -}}
{{- $variables := dict -}}
{{- $names := list -}}
{{- range concat .ours .extra -}}
{{- if not (hasKey $variables .name) }}{{ $names = append $names .name }}{{ end -}}
{{- $_ := set $variables .name . -}}
{{- end -}}
{{- $given := dict -}}
{{- range .extra }}{{ $_ := set $given .name true }}{{ end -}}
{{- range $old, $new := $oldNames -}}
{{- if and (hasKey $given $old) (not (hasKey $given $new)) }}{{ $names = without $names $new }}{{ end -}}
{{- end -}}
{{- $all := list -}}
{{- range $names }}{{ $all = append $all (get $variables .) }}{{ end -}}
{{- toYaml $all -}}
{{- end -}}

{{/* Environment variables of every controller. */}}
{{- define "galactic.common" -}}
- {name: GALACTIC_CLUSTER, value: {{ .Values.cluster | quote }}}
- {name: GALACTIC_SRV6_BLOCK, value: {{ .Values.srv6Space | quote }}}
- {name: GALACTIC_LOG_LEVEL, value: {{ .Values.log.level }}}
- {name: GALACTIC_LOG_FORMAT, value: {{ .Values.log.format }}}
- {name: POD_NAMESPACE, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}}
{{- end -}}

{{/* A setting of the webhooks, as extraEnv or extraArgs have it. Context: a dict with root and name; "" if it is not there. */}}
{{- define "galactic.webhookSetting" -}}
{{- $value := "" -}}
{{- range .root.Values.webhook.extraEnv -}}
{{- if eq .name (printf "GALACTIC_%s" $.name) }}{{ $value = .value | default "" }}{{ end -}}
{{- end -}}
{{- $flag := printf "--%s=" ($.name | lower | replace "_" "-") -}}
{{- range .root.Values.webhook.extraArgs -}}
{{- if hasPrefix $flag . }}{{ $value = trimPrefix $flag . }}{{ end -}}
{{- end -}}
{{- $value -}}
{{- end -}}

{{/* The URL at which the API server reaches the webhooks; empty: through the Service. */}}
{{- define "galactic.webhookUrl" -}}
{{- $old := include "galactic.webhookSetting" (dict "root" . "name" "URL") -}}
{{- include "galactic.webhookSetting" (dict "root" . "name" "WEBHOOK_URL") | default $old | trimSuffix "/" -}}
{{- end -}}

{{- define "galactic.nodeIdentities" -}}
{{- $default := printf "system:node:{node},system:serviceaccount:%s:galactic-node" .Release.Namespace -}}
{{- include "galactic.webhookSetting" (dict "root" . "name" "NODE_IDENTITIES") | default $default -}}
{{- end -}}

{{- define "galactic.ownBroker" -}}
{{- if and (not .Values.mqtt.url) .Values.broker.enabled }}true{{ end -}}
{{- end -}}

{{/* A text with {cluster}, {node} and {pod} replaced, for a variable's value. */}}
{{- define "galactic.placed" -}}
{{- .text | replace "{cluster}" .root.Values.cluster | replace "{node}" "$(NODE_NAME)" | replace "{pod}" "$(POD_NAME)" -}}
{{- end -}}

{{/* URL, CA and credentials of a client (node or router) of the chart's own or another broker. */}}
{{- define "galactic.client" -}}
{{- $root := .root -}}
{{- $client := get $root.Values.mqtt .component -}}
{{- $url := $client.url | default $root.Values.mqtt.url -}}
{{- $ca := $root.Values.mqtt.caSecret -}}
{{- if include "galactic.ownBroker" $root -}}
{{- $url = printf "mqtts://galactic-broker.%s.svc:8884" $root.Release.Namespace -}}
{{- $secret := printf "galactic-broker-%s" .component -}}
{{- $ca = dict "name" $secret "key" "ca.crt" -}}
{{- $client = dict "username" (printf "galactic-%s" .component) "passwordSecret" (dict "name" $secret "key" "password") -}}
{{- end -}}
{{- dict "url" $url "ca" $ca "client" $client | toYaml -}}
{{- end -}}

{{- define "galactic.clientVariables" -}}
{{- $it := include "galactic.client" . | fromYaml -}}
{{- $client := $it.client -}}
- {name: NODE_NAME, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: spec.nodeName}}}
- {name: POD_NAME, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}}
{{- if eq .component "router" }}
- {name: POD_UID, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.uid}}}
{{- end }}
- {name: GALACTIC_MQTT_URL, value: {{ $it.url | quote }}}
- {name: GALACTIC_MQTT_BASE, value: {{ .root.Values.mqtt.base | quote }}}
{{- with $client.username }}
- {name: GALACTIC_MQTT_USERNAME, value: {{ include "galactic.placed" (dict "root" $.root "text" .) | quote }}}
{{- end }}
{{- if $client.passwordSecret.name }}
- {name: GALACTIC_MQTT_PASSWORD_FILE, value: {{ printf "/etc/galactic/password/%s" (include "galactic.placed" (dict "root" .root "text" $client.passwordSecret.key)) | quote }}}
{{- end }}
{{- if $it.ca.name }}
- {name: GALACTIC_MQTT_CA_FILE, value: {{ printf "/etc/galactic/ca/%s" $it.ca.key | quote }}}
{{- end }}
{{- if $client.issueCertificates }}
- {name: GALACTIC_REQUEST_BROKER_CERTIFICATE, value: "true"}
{{- end }}
{{- if or $client.certificateHostPath $client.certificateSecret }}
- {name: GALACTIC_MQTT_CERT_FILE, value: /etc/galactic/certificate/tls.crt}
- {name: GALACTIC_MQTT_KEY_FILE, value: /etc/galactic/certificate/tls.key}
{{- end }}
{{- end -}}

{{- define "galactic.clientMounts" -}}
{{- $it := include "galactic.client" . | fromYaml -}}
{{- if $it.client.passwordSecret.name }}
- {name: password, mountPath: /etc/galactic/password, readOnly: true}
{{- end }}
{{- if $it.ca.name }}
- {name: ca, mountPath: /etc/galactic/ca, readOnly: true}
{{- end }}
{{- if or $it.client.certificateHostPath $it.client.certificateSecret }}
- {name: certificate, mountPath: /etc/galactic/certificate, readOnly: true}
{{- end }}
{{- end -}}

{{- define "galactic.clientVolumes" -}}
{{- $it := include "galactic.client" . | fromYaml -}}
{{- with $it.client.passwordSecret }}{{ if .name }}
- {name: password, secret: {secretName: {{ .name | quote }}, defaultMode: 0440}}
{{- end }}{{ end }}
{{- with $it.ca }}{{ if .name }}
- {name: ca, secret: {secretName: {{ .name | quote }}, items: [{key: {{ .key | quote }}, path: {{ .key | quote }}}]}}
{{- end }}{{ end }}
{{- with $it.client.certificateSecret }}
- {name: certificate, secret: {secretName: {{ . | quote }}, defaultMode: 0440}}
{{- end }}
{{- with $it.client.certificateHostPath }}
- {name: certificate, hostPath: {path: {{ . | quote }}, type: Directory}}
{{- end }}
{{- end -}}

{{/* Address of /metrics and /healthz of a pod on the host's network: as given, or that of the Node; empty for all. */}}
{{- define "galactic.hostMetrics" -}}
- {name: HOST_IP, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: status.hostIP}}}
- {name: GALACTIC_METRICS_ADDRESS, value: {{ if eq . "all" }}""{{ else }}{{ . | default "$(HOST_IP)" | quote }}{{ end }}}
{{- end -}}

{{/* Probes of a container, at that address. A restart repairs none of the problems that /readyz names, but a loop that hangs. */}}
{{- define "galactic.probes" -}}
{{- $more := "" }}
{{- if not (has (.address | default "all") (list "all" "0.0.0.0" "::")) }}{{ $more = printf ", host: %q" .address }}{{ end -}}
{{- if .root.Values.metrics.secure.enabled }}{{ $more = printf "%s, scheme: HTTPS" $more }}{{ end -}}
readinessProbe:
  httpGet: {path: /readyz, port: metrics{{ $more }}}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 3
livenessProbe:
  httpGet: {path: /livez, port: metrics{{ $more }}}
  initialDelaySeconds: 30
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 6
{{- end -}}

{{/* HTTPS and tokens for /metrics, of every controller: variables, mounts, volumes; and the same for monitors. */}}
{{- define "galactic.secureMetrics" -}}
{{- with .Values.metrics.secure }}{{ if .enabled }}
- {name: GALACTIC_METRICS_SECURE, value: "true"}
{{- if .certificateSecret }}
- {name: GALACTIC_METRICS_CERT_FILE, value: /etc/galactic/metrics/tls.crt}
- {name: GALACTIC_METRICS_KEY_FILE, value: /etc/galactic/metrics/tls.key}
{{- end }}{{ end }}{{ end }}
{{- end -}}

{{- define "galactic.metricsMounts" -}}
{{- with .Values.metrics.secure }}{{ if and .enabled .certificateSecret }}
- {name: metrics-certificate, mountPath: /etc/galactic/metrics, readOnly: true}
{{- end }}{{ end }}
{{- end -}}

{{- define "galactic.metricsVolumes" -}}
{{- with .Values.metrics.secure }}{{ if and .enabled .certificateSecret }}
- {name: metrics-certificate, secret: {secretName: {{ .certificateSecret | quote }}, defaultMode: 0440}}
{{- end }}{{ end }}
{{- end -}}

{{- define "galactic.scrape" -}}
{{- with .Values.metrics.secure }}{{ if .enabled }}
scheme: https
{{- if .tokenSecret.name }}
authorization: {type: Bearer, credentials: {name: {{ .tokenSecret.name | quote }}, key: {{ .tokenSecret.key | quote }}}}
{{- else }}
bearerTokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
{{- end }}
{{- if .serverName }}
tlsConfig: {serverName: {{ .serverName | quote }}, ca: {secret: {name: {{ .certificateSecret | quote }}, key: ca.crt}}}
{{- else }}
tlsConfig: {insecureSkipVerify: true}
{{- end }}{{ end }}{{ end }}
{{- end -}}

{{/* Metadata of the Job before `helm uninstall` and of its rights. */}}
{{- define "galactic.hook" -}}
labels:
  {{- include "galactic.labels" . | nindent 2 }}
annotations:
  helm.sh/hook: pre-delete
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{- define "galactic.brokerFiles" -}}
mosquitto.conf: |
  {{- tpl (.Files.Get "files/broker/mosquitto.conf") . | nindent 2 }}
acl: |
  {{- tpl (.Files.Get "files/broker/acl") . | nindent 2 }}
{{- end -}}
