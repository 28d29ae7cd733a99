package emulator

import (
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"smartvm/emulator/serde"
)

// level is how important a log line is.
type level int

const (
	levelOff level = iota
	levelError
	levelWarn
	levelInfo
	levelDebug
	levelTrace
)

var levelNames = [...]string{"OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"}

// parseLevel takes the names that Firecracker takes, in any case.
func parseLevel(s string) (level, bool) {
	switch strings.ToLower(s) {
	case "off":
		return levelOff, true
	case "error":
		return levelError, true
	case "warn", "warning":
		return levelWarn, true
	case "info":
		return levelInfo, true
	case "debug":
		return levelDebug, true
	case "trace":
		return levelTrace, true
	}
	return 0, false
}

// module names the part that writes a line, for the module filter, as Firecracker's modules are named.
type module string

const (
	moduleMain module = "firecracker"
	moduleAPI  module = "firecracker::api_server"
	moduleVMM  module = "vmm"
)

// thread is the name of Firecracker's thread that writes lines of the module.
func (m module) thread() string {
	if m == moduleAPI {
		return "fc_api"
	}
	return "main"
}

// logger writes lines in Firecracker's form. It may be used from several goroutines.
type logger struct {
	system system
	id     string

	mu         sync.Mutex
	out        io.Writer
	file       io.Closer
	limit      level
	showLevel  bool
	showOrigin bool
	filter     *string
	missed     uint64
}

// loggerConfig is the body of PUT /logger.
type loggerConfig struct {
	path       *string
	level      *level
	showLevel  *bool
	showOrigin *bool
	module     *string
}

func decodeLogger(l *loggerConfig) serde.Decode {
	return serde.Struct("LoggerConfig",
		serde.Optional("log_path", serde.Option(&l.path, serde.Path)),
		serde.Optional("level", serde.Option(&l.level, func(p *level) serde.Decode {
			return serde.Parsed(p, func(s string) (level, error) {
				if v, ok := parseLevel(s); ok {
					return v, nil
				}
				return 0, serde.Fail("Invalid LevelFilter")
			})
		})),
		serde.Optional("show_level", serde.Option(&l.showLevel, serde.Bool)),
		serde.Optional("show_log_origin", serde.Option(&l.showOrigin, serde.Bool)),
		serde.Optional("module", serde.Option(&l.module, serde.String)))
}

// update applies a configuration. What it does not name stays, but for the level, which falls back to Info.
func (l *logger) update(cfg loggerConfig) error {
	var out io.WriteCloser
	if cfg.path != nil {
		var err error
		if out, err = l.system.openOutput(*cfg.path); err != nil {
			return osFault("Failed to open target file: ", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit = levelInfo
	assign(&l.limit, cfg.level)
	if out != nil {
		if l.file != nil {
			_ = l.file.Close()
		}
		l.out, l.file = out, out
	}
	assign(&l.showLevel, cfg.showLevel)
	assign(&l.showOrigin, cfg.showOrigin)
	if cfg.module != nil {
		l.filter = cfg.module
	}
	return nil
}

func (l *logger) Error(m module, format string, args ...any) { l.line(levelError, m, format, args) }
func (l *logger) Warn(m module, format string, args ...any)  { l.line(levelWarn, m, format, args) }
func (l *logger) Info(m module, format string, args ...any)  { l.line(levelInfo, m, format, args) }
func (l *logger) Debug(m module, format string, args ...any) { l.line(levelDebug, m, format, args) }

// enabled tells whether lines of that level are written.
func (l *logger) enabled(v level) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return v <= l.limit
}

func (l *logger) line(v level, m module, format string, args []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if v > l.limit || l.filter != nil && !strings.HasPrefix(string(m), *l.filter) {
		return
	}
	b := time.Now().AppendFormat(nil, "2006-01-02T15:04:05.000000000")
	b = append(b, " ["+l.id+":"+m.thread()...)
	if l.showLevel {
		b = append(b, ":"+levelNames[v]...)
	}
	if l.showOrigin {
		const callers = 2 // this method and the one named after the level
		_, file, line, _ := runtime.Caller(callers)
		b = fmt.Appendf(b, ":emulator/%s:%d", filepath.Base(file), line)
	}
	b = append(b, "] "...)
	b = append(fmt.Appendf(b, format, args...), '\n')
	if _, err := l.out.Write(b); err != nil {
		l.missed++
	}
}

// putLogger configures the logger, as often as the client likes.
type putLogger struct {
	onlyBeforeStart
	cfg loggerConfig
}

func parsePutLogger(body []byte) (action, string, error) {
	var a putLogger
	err := decode(body, decodeLogger(&a.cfg))
	return a, "", err
}

func (a putLogger) beforeStart(c *controller) (any, error) {
	return nil, prefix("Logger error: ", c.log.update(a.cfg))
}
