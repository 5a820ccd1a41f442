{{/* What only a site has. */}}

{{- define "rk.own.settings" -}}
{{- if .Values.joinTokens.existingSecret }}
site:
  join_token_file: /run/regional-keystone/join/token
{{- end }}
{{- if or .Values.memcached.existingSecret .Values.memcached.tls.existingSecret }}
memcached:
{{- if .Values.memcached.existingSecret }}
  secret_file: /run/regional-keystone/memcached/secret
{{- end }}
{{- if .Values.memcached.tls.existingSecret }}
  tls_ca: /run/regional-keystone/memcached-tls/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{- define "rk.own.ini" -}}
{{- $told := mergeOverwrite (deepCopy .Values.config) (include "rk.settings" . | fromYaml) (include "rk.own.settings" . | fromYaml) -}}
{{- include "rk.ini" $told -}}
{{- end -}}

{{- define "rk.own.secrets" -}}
{{- $found := dict "own-join" .Values.joinTokens.existingSecret "memcached" .Values.memcached.existingSecret "memcached-tls" .Values.memcached.tls.existingSecret -}}
{{- range $name, $secret := $found }}
{{- if $secret }}
{{ $name }}: {{ $secret | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of the join tokens a pod gets its own, and a pod that has joined needs none. */}}
{{- define "rk.own.script" -}}
mkdir -p /run/regional-keystone/join
if [ -f "/secrets/own-join/$POD_NAME" ]; then
  install -m 0400 "/secrets/own-join/$POD_NAME" /run/regional-keystone/join/token
fi
{{- end -}}

{{- define "rk.own.checks" -}}
{{- $config := .Values.config -}}
{{- if and (gt (int .Values.replicas) 1) (dig "memcached" "servers" list $config) (not .Values.memcached.existingSecret) -}}
{{- fail "memcached.existingSecret is needed with several replicas: what one pod seals, the others must be able to open" -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (dig "cassandra" "contact_points" list $config) -}}
{{- fail "config.cassandra goes with replicas: 1: each pod is a site with tables and a role of its own, and config.cassandra.username is one; install a release for each site, or leave config.cassandra away for a SQLite replica in each pod" -}}
{{- end -}}
{{- end -}}
