{{/* What only a controller has. */}}

{{- define "rk.own.settings" -}}
stream:
  host: {{ .Values.listenAddress | quote }}
  port: {{ .Values.ports.stream }}
{{- if .Values.bootstrap.existingSecret }}
bootstrap:
  password_file: /run/regional-keystone/bootstrap/password
{{- end }}
{{- if or .Values.zookeeper.existingSecret .Values.zookeeper.tls.existingSecret }}
zookeeper:
{{- if .Values.zookeeper.existingSecret }}
  password_file: /run/regional-keystone/zookeeper/password
{{- end }}
{{- if .Values.zookeeper.tls.existingSecret }}
  tls_ca: /run/regional-keystone/zookeeper-tls/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{- define "rk.own.ini" -}}
{{- $told := mergeOverwrite (deepCopy .Values.config) (include "rk.settings" . | fromYaml) (include "rk.own.settings" . | fromYaml) -}}
{{- include "rk.ini" $told -}}
{{- end -}}

{{- define "rk.own.secrets" -}}
{{- $found := dict "own-authority" .Values.authority.existingSecret "bootstrap" .Values.bootstrap.existingSecret "zookeeper" .Values.zookeeper.existingSecret "zookeeper-tls" .Values.zookeeper.tls.existingSecret -}}
{{- range $name, $secret := $found }}
{{- if $secret }}
{{ $name }}: {{ $secret | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The authority lies in the state directory, beside the certificate that it signs for itself; what is there stays. */}}
{{- define "rk.own.script" -}}
for file in /secrets/own-authority/*; do
  [ -f "$file" ] || continue
  mkdir -p /var/lib/regional-keystone/state/authority
  copy=/var/lib/regional-keystone/state/authority/$(basename "$file")
  [ -e "$copy" ] || install -m 0400 "$file" "$copy"
done
{{- end -}}

{{- define "rk.own.checks" -}}
{{- $config := .Values.config -}}
{{- if not (hasPrefix "https://" (dig "stream" "advertise" "" $config)) -}}
{{- fail "config.stream.advertise is needed: https://host:port at which sites of all regions reach streamService" -}}
{{- end -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- if not (dig "cassandra" "contact_points" list $config) -}}
{{- fail "several controllers need a store that they share: set config.cassandra.contact_points, or replicas: 1" -}}
{{- end -}}
{{- if not .Values.authority.existingSecret -}}
{{- fail "several controllers need the same authority: name a Secret with its files in authority.existingSecret" -}}
{{- end -}}
{{- end -}}
{{- if and (dig "zookeeper" "username" "" $config) (not .Values.zookeeper.existingSecret) -}}
{{- fail "config.zookeeper.username needs zookeeper.existingSecret, a Secret whose key `password` holds the user's" -}}
{{- end -}}
{{- end -}}
