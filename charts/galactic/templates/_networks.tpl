{{/* The prefix bits of a network in binary digits: 56 of them for 2001:db8:ff01:100::/56. A network lies inside
     another one if its bits begin with the other's. Fails if the address has host bits.
     Context: a dict with name (of the value) and network. */}}
{{- define "galactic.bits" -}}
{{- $parts := splitList "/" .network -}}
{{- $bits := "" -}}
{{- if contains "." .network -}}
{{- range splitList "." (first $parts) }}{{ $bits = printf "%s%08b" $bits (int .) }}{{ end -}}
{{- else -}}
{{- $sides := splitList "::" (first $parts) -}}
{{- $left := without (splitList ":" (first $sides)) "" -}}
{{- $right := ternary (list) (without (splitList ":" (last $sides)) "") (eq (len $sides) 1) -}}
{{- $digits := "" -}}
{{- range concat $left (until (int (sub 8 (add (len $left) (len $right))))) $right -}}
{{- $group := toString . -}}
{{- if kindIs "int" . }}{{ $group = "0" }}{{ end -}}
{{- $digits = printf "%s%s%s" $digits (repeat (int (sub 4 (len $group))) "0") $group -}}
{{- end -}}
{{- $four := dict "0" "0000" "1" "0001" "2" "0010" "3" "0011" "4" "0100" "5" "0101" "6" "0110" "7" "0111" "8" "1000"
      "9" "1001" "a" "1010" "b" "1011" "c" "1100" "d" "1101" "e" "1110" "f" "1111" -}}
{{- range splitList "" $digits }}{{ $bits = printf "%s%s" $bits (get $four .) }}{{ end -}}
{{- end -}}
{{- $length := int (last $parts) -}}
{{- if contains "1" (substr $length 128 $bits) -}}
{{- fail (printf "%s: %s has bits set beyond its length of %d" .name .network $length) -}}
{{- end -}}
{{- substr 0 $length $bits -}}
{{- end -}}
