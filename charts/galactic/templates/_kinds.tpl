{{/* Takes out of a kind's schema, at any depth, what an API server of that version does not know, and rules about values
     where it has no ratcheting; galactic/crds/rules.py says why. Context: a dict with schema and version. */}}
{{- define "galactic.adapted" -}}
{{- $version := .version }}
{{- $name := "x-kubernetes-validations" }}
{{- if hasKey .schema $name }}
{{- $rules := list }}
{{- range index .schema $name }}
{{- if or (contains "oldSelf" .rule) (semverCompare ">=1.30.0-0" $version) }}
{{- if semverCompare "<1.28.0-0" $version }}{{- $_ := unset . "fieldPath" }}{{- end }}
{{- if semverCompare "<1.27.0-0" $version }}{{- $_ := unset . "messageExpression" }}{{- end }}
{{- $rules = append $rules . }}
{{- end }}
{{- end }}
{{- if and $rules (semverCompare ">=1.25.0-0" $version) }}
{{- $_ := set .schema $name $rules }}
{{- else }}
{{- $_ := unset .schema $name }}
{{- end }}
{{- end }}
{{- range $value := .schema }}
{{- if kindIs "map" $value }}{{- include "galactic.adapted" (dict "schema" $value "version" $version) }}{{- end }}
{{- end }}
{{- end -}}
