{{/* The same file in both charts (tests/deploy compares them): names, the INI file, what every pod of ours has. */}}

{{- define "rk.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "rk.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "rk.labels" -}}
{{- $ours := include "rk.selector" . | fromYaml -}}
{{- $chart := dict "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version) "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $part := dict "app.kubernetes.io/managed-by" .Release.Service "app.kubernetes.io/part-of" "regional-keystone" -}}
{{- merge (dict) $ours $chart $part .Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "rk.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* One value as the INI file has it. A whole number is never written as 1e+06. */}}
{{- define "rk.value" -}}
{{- if kindIs "slice" . -}}
{{- join "," . -}}
{{- else if kindIs "float64" . -}}
{{- if eq . (floor .) }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- define "rk.ini" -}}
{{- range $section, $options := . }}
[{{ $section }}]
{{- range $name, $value := $options }}
{{ $name }} = {{ include "rk.value" $value }}
{{- end }}
{{ end }}
{{- end -}}

{{/* What both programs are told by the chart: where they listen, and where the files of Secrets are. */}}
{{- define "rk.settings" -}}
{{- $run := "/run/regional-keystone" -}}
site:
  state_dir: /var/lib/regional-keystone/state
listen:
  host: {{ .Values.listenAddress | quote }}
  port: {{ .Values.ports.public }}
  admin_host: {{ .Values.listenAddress | quote }}
  admin_port: {{ .Values.ports.admin }}
{{- if .Values.tls.existingSecret }}
  tls_cert: {{ $run }}/tls/tls.crt
  tls_key: {{ $run }}/tls/tls.key
{{- end }}
{{- if .Values.policy.existingConfigMap }}
policy:
  file: /etc/regional-keystone-policy/policy.yaml
{{- end }}
{{- if or .Values.cassandra.existingSecret .Values.cassandra.tls.existingSecret }}
cassandra:
{{- if .Values.cassandra.existingSecret }}
  password_file: {{ $run }}/cassandra/password
{{- end }}
{{- if .Values.cassandra.tls.existingSecret }}
  tls_ca: {{ $run }}/cassandra-tls/ca.crt
{{- if .Values.cassandra.tls.clientCertificate }}
  tls_cert: {{ $run }}/cassandra-tls/tls.crt
  tls_key: {{ $run }}/cassandra-tls/tls.key
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "rk.checks" -}}
{{- $config := .Values.config -}}
{{- if not (or .Values.tls.existingSecret (dig "listen" "trusted_proxies" list $config)) -}}
{{- fail "tls.existingSecret, or config.listen.trusted_proxies, is needed: passwords never cross a network in clear" -}}
{{- end -}}
{{- if and (dig "cassandra" "username" "" $config) (not .Values.cassandra.existingSecret) -}}
{{- fail "config.cassandra.username needs cassandra.existingSecret, a Secret whose key `password` holds the user's" -}}
{{- end -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) (add .Values.preStopSeconds 10 | int) -}}
{{- fail "terminationGracePeriodSeconds is at least preStopSeconds + 10: running requests have 8 seconds to end" -}}
{{- end -}}
{{- end -}}

{{- define "rk.security" -}}
runAsNonRoot: true
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
Copies the files of Secrets to memory, owned by our user, mode 0400. Kubernetes would show them with the group's read
bit (fsGroup), which the programs refuse; and a join token is removed once it was used, which a Secret cannot be.
Called with `secrets` (names of volumes) and `script` (more to copy).
*/}}
{{- define "rk.init" -}}
- name: secrets
  image: {{ include "rk.image" .root | quote }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [sh, -euc]
  args:
    - |
      umask 077
      for from in /secrets/*/; do
        name=$(basename "$from")
        case $name in own-*) continue ;; esac
        mkdir -p "/run/regional-keystone/$name"
        for file in "$from"*; do
          [ ! -f "$file" ] || install -m 0400 "$file" "/run/regional-keystone/$name/"
        done
      done
{{ .script | indent 6 }}
  env:
    - name: POD_NAME
      valueFrom:
        fieldRef:
          fieldPath: metadata.name
  securityContext:
{{ include "rk.security" .root | indent 4 }}
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  volumeMounts:
    - {name: run, mountPath: /run/regional-keystone}
    - {name: state, mountPath: /var/lib/regional-keystone}
{{- range $name, $secret := .secrets }}
    - {name: {{ $name }}, mountPath: /secrets/{{ $name }}, readOnly: true}
{{- end }}
{{- end -}}

{{/* Volume -> Secret, of those that both programs may have. */}}
{{- define "rk.secrets" -}}
{{- $found := dict "tls" .Values.tls.existingSecret "cassandra" .Values.cassandra.existingSecret "cassandra-tls" .Values.cassandra.tls.existingSecret -}}
{{- range $name, $secret := $found }}
{{- if $secret }}
{{ $name }}: {{ $secret | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What the one container has, beside its command and ports. */}}
{{- define "rk.container" -}}
image: {{ include "rk.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - {name: PYTHONDONTWRITEBYTECODE, value: "1"}
  - {name: PYTHONUNBUFFERED, value: "1"}
securityContext:
{{ include "rk.security" . | indent 2 }}
# until it serves: joining waits for a controller, and a new site is filled first
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 5
  failureThreshold: {{ div (add .Values.probes.startupSeconds 4) 5 }}
# the process turns; nothing that another could mend by a restart is asked
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: {{ .Values.probes.periodSeconds }}
  timeoutSeconds: 5
  failureThreshold: 6
# it has keys and data, and so can answer
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: {{ .Values.probes.periodSeconds }}
  timeoutSeconds: 2
  failureThreshold: 2
{{- if .Values.preStopSeconds }}
# endpoints forget the pod first, then it ends
lifecycle:
  preStop:
    exec:
      command: [sleep, {{ .Values.preStopSeconds | quote }}]
{{- end }}
resources:
{{ toYaml .Values.resources | indent 2 }}
volumeMounts:
  - {name: state, mountPath: /var/lib/regional-keystone}
  - {name: run, mountPath: /run/regional-keystone}
  - {name: tmp, mountPath: /tmp}
  - {name: config, mountPath: /etc/regional-keystone, readOnly: true}
{{- if .Values.policy.existingConfigMap }}
  - {name: policy, mountPath: /etc/regional-keystone-policy, readOnly: true}
{{- end }}
{{- end -}}

{{/* What the pod has, beside its containers. Called with `root` and `secrets`. */}}
{{- define "rk.pod" -}}
{{- $values := .root.Values -}}
serviceAccountName: {{ include "rk.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ $values.podSecurityContext.user }}
  runAsGroup: {{ $values.podSecurityContext.group }}
  fsGroup: {{ $values.podSecurityContext.group }}
  # the state directory keeps its modes from start to start
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with $values.imagePullSecrets }}
imagePullSecrets:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
{{ toYaml . | indent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
{{ toYaml . | indent 2 }}
{{- end }}
{{- if $values.topologySpread.enabled }}
topologySpreadConstraints:
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
{{ include "rk.selector" $.root | indent 8 }}
{{- end }}
{{- end }}
volumes:
  - name: run
    emptyDir: {medium: Memory, sizeLimit: 16Mi}
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
  - name: config
    configMap:
      name: {{ include "rk.fullname" .root }}
{{- with $values.policy.existingConfigMap }}
  - name: policy
    configMap:
      name: {{ . | quote }}
{{- end }}
{{- range $name, $secret := .secrets }}
  - name: {{ $name }}
    secret:
      secretName: {{ $secret | quote }}
      defaultMode: 0400
{{- if hasPrefix "own-" $name }}
      optional: true
{{- end }}
{{- end }}
{{- end -}}

{{- define "rk.claim" -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: state
{{- with .Values.persistence.annotations }}
    annotations:
{{ toYaml . | indent 6 }}
{{- end }}
  spec:
    accessModes: [{{ .Values.persistence.accessMode }}]
{{- with .Values.persistence.storageClass }}
    storageClassName: {{ . | quote }}
{{- end }}
    resources:
      requests:
        storage: {{ .Values.persistence.size | quote }}
{{- end -}}

{{- define "rk.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "rk.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* One Service. Called with `root`, `name`, `service` (values), `port` (its name in the pod), `admin`. */}}
{{- define "rk.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  labels:
{{ include "rk.labels" .root | indent 4 }}
    regional-keystone/port: {{ .port }}
{{- with .service.annotations }}
  annotations:
{{ toYaml . | indent 4 }}
{{- end }}
spec:
  type: {{ .service.type }}
{{- if and .service.externalTrafficPolicy (ne .service.type "ClusterIP") }}
  externalTrafficPolicy: {{ .service.externalTrafficPolicy }}
{{- end }}
  selector:
{{ include "rk.selector" .root | indent 4 }}
  ports:
    - {name: {{ .port }}, port: {{ .service.port }}, targetPort: {{ .port }}, protocol: TCP}
{{- end -}}

{{/* Everything around the pods that both charts have. */}}
{{- define "rk.around" -}}
{{- $name := include "rk.fullname" . -}}
{{- if .Values.serviceAccount.create }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "rk.serviceAccount" . }}
  labels:
{{ include "rk.labels" . | indent 4 }}
{{- with .Values.serviceAccount.annotations }}
  annotations:
{{ toYaml . | indent 4 }}
{{- end }}
automountServiceAccountToken: false
{{- end }}
---
{{ include "rk.service" (dict "root" . "name" $name "service" .Values.service "port" "public") }}
---
{{ include "rk.service" (dict "root" . "name" (printf "%s-admin" $name) "port" "admin" "service" (dict "type" "ClusterIP" "port" .Values.ports.admin)) }}
---
# the names of the single pods
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}-pods
  labels:
{{ include "rk.labels" . | indent 4 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
{{ include "rk.selector" . | indent 4 }}
  ports:
    - {name: public, port: {{ .Values.ports.public }}, targetPort: public, protocol: TCP}
{{- if and .Values.podDisruptionBudget.enabled (gt (int .Values.replicas) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  labels:
{{ include "rk.labels" . | indent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
{{ include "rk.selector" . | indent 6 }}
{{- end }}
{{- if .Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $name }}
  labels:
{{ include "rk.labels" . | indent 4 }}
spec:
  podSelector:
    matchLabels:
{{ include "rk.selector" . | indent 6 }}
  policyTypes: [Ingress]
  ingress:
    - ports:
        - {port: public, protocol: TCP}
{{- with .Values.networkPolicy.clients }}
      from:
{{ toYaml . | indent 8 }}
        - podSelector:
            matchLabels:
              regional-keystone/test: {{ $.Release.Name | quote }}
{{- end }}
{{- with .Values.networkPolicy.monitoring }}
    - ports:
        - {port: admin, protocol: TCP}
      from:
{{ toYaml . | indent 8 }}
{{- end }}
{{- if .Values.ports.stream }}
    # sites of all regions; nobody gets further than mutually authenticated TLS
    - ports:
        - {port: stream, protocol: TCP}
{{- end }}
{{- end }}
{{- if .Values.serviceMonitor.enabled }}
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ $name }}
  labels:
{{ merge (dict) (include "rk.labels" . | fromYaml) .Values.serviceMonitor.labels | toYaml | indent 4 }}
spec:
  selector:
    matchLabels:
{{ include "rk.selector" . | indent 6 }}
      regional-keystone/port: admin
  endpoints:
    - port: admin
      path: /metrics
      interval: {{ .Values.serviceMonitor.interval }}
{{- end }}
{{- end -}}

{{/* `helm test`: does the Service answer? */}}
{{- define "rk.test" -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "rk.fullname" . }}-test
  labels:
    app.kubernetes.io/part-of: regional-keystone
    regional-keystone/test: {{ .Release.Name | quote }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ .Values.podSecurityContext.user }}
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: ask
      image: {{ include "rk.image" . | quote }}
      command: [python3, -c]
      args:
        - |
          import ssl, sys, urllib.request
          context = ssl.create_default_context()
          context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # whether it answers; it is told nothing
          with urllib.request.urlopen(sys.argv[1], timeout=10, context=context) as answer:
              assert answer.status == 200, answer.status
        - {{ ternary "https" "http" (ne .Values.tls.existingSecret "") }}://{{ include "rk.fullname" . }}:{{ .Values.service.port }}/healthcheck
      securityContext:
{{ include "rk.security" . | indent 8 }}
      resources:
        requests: {cpu: 10m, memory: 32Mi}
        limits: {memory: 64Mi}
{{- end -}}
