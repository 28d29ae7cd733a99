//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/spf13/cobra"
)

// format is the value of --format: table, json, or a template of Go's, which is filled in for each thing of the list.
type format struct {
	text     string
	template *template.Template // nil for table and json
}

const (
	formatTable = "table"
	formatJSON  = "json"
)

func formatFlag(cmd *cobra.Command, f *format, byDefault string) {
	cmd.Flags().StringVar(&f.text, "format", byDefault, "`FORMAT`: "+formatTable+", "+formatJSON+", or a Go template such as '{{.ID}}'")
	completeWith(cmd, "format", formatTable, formatJSON)
}

// parse looks at what was typed.
func (f *format) parse() error {
	if f.text == formatTable || f.text == formatJSON {
		return nil
	}
	if !strings.Contains(f.text, "{{") {
		return fmt.Errorf("--format %q is neither %s nor %s nor a template such as '{{.ID}}'", f.text, formatTable, formatJSON)
	}
	functions := template.FuncMap{
		"json": func(v any) (string, error) {
			text, err := json.Marshal(v)
			return string(text), err
		},
		"join": strings.Join, "lower": strings.ToLower, "upper": strings.ToUpper,
	}
	var err error
	if f.template, err = template.New("--format").Funcs(functions).Parse(f.text); err != nil {
		return fmt.Errorf("--format: %w", err)
	}
	return nil
}

// printList prints a list in the format asked for. A row is what stands in the table of one thing.
func printList[T any](w io.Writer, f format, all []T, head string, row func(T) string) error {
	switch {
	case f.template != nil:
		var text strings.Builder
		for _, one := range all {
			if err := f.template.Execute(&text, one); err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			text.WriteByte('\n')
		}
		_, err := io.WriteString(w, text.String())
		return err
	case f.text == formatJSON:
		return printJSON(w, all)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, head)
	for _, one := range all {
		fmt.Fprintln(table, printable(row(one)))
	}
	return table.Flush()
}

// printJSON prints a list as an array, also an empty one.
func printJSON[T any](w io.Writer, all []T) error {
	if all == nil {
		all = []T{}
	}
	return writeJSON(w, all)
}

func writeJSON(w io.Writer, value any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(value)
}

// sizeText is a number of bytes for people: "2.0GiB".
func sizeText(bytes int64) string {
	const unit = 1024
	value, units := float64(bytes), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for value >= unit && i < len(units)-1 {
		value /= unit
		i++
	}
	if i == 0 || value >= 100 {
		return fmt.Sprintf("%.0f%s", value, units[i])
	}
	return fmt.Sprintf("%.1f%s", value, units[i])
}

// ageText is how long ago something was, for people: "3m".
func ageText(since time.Time, now time.Time) string {
	const day = 24 * time.Hour
	if since.IsZero() {
		return "-"
	}
	switch age := max(0, now.Sub(since)); {
	case age < time.Minute:
		return fmt.Sprintf("%ds", int(age.Seconds()))
	case age < time.Hour:
		return fmt.Sprintf("%dm", int(age.Minutes()))
	case age < 2*day:
		return fmt.Sprintf("%dh", int(age.Hours()))
	default:
		return fmt.Sprintf("%dd", int(age/day))
	}
}
