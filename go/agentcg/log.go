package agentcg

// #include <agentcg.h>
//
// extern void agentcgGoLog(uintptr_t logger, uint32_t level, char *message);
//
// static void log_line(void *logger, uint32_t level, const char *message)
// {
// 	agentcgGoLog((uintptr_t)logger, level, (char *)message);
// }
//
// static void log_to(agentcg_runtime_options_t *options, uintptr_t logger)
// {
// 	options->log = log_line;
// 	options->log_data = (void *)logger;
// }
import "C"

import (
	"runtime/cgo"
	"sync/atomic"
)

// LogLevel is how grave a line of the log is.
type LogLevel uint32

// The levels, the gravest first.
const (
	LogError LogLevel = C.AGENTCG_LOG_ERROR // something does not work any more
	LogWarn  LogLevel = C.AGENTCG_LOG_WARN  // something was not done; the rest goes on
	LogInfo  LogLevel = C.AGENTCG_LOG_INFO  // what was done
	LogDebug LogLevel = C.AGENTCG_LOG_DEBUG
)

// logger is the function of WithLog, kept as long as a handle of the library may call it.
type logger struct {
	function func(LogLevel, string)
	self     cgo.Handle
	users    atomic.Int32
}

func newLogger(function func(LogLevel, string), options *C.agentcg_runtime_options_t) *logger {
	l := &logger{function: function}
	l.users.Store(1)
	l.self = cgo.NewHandle(l)
	C.log_to(options, C.uintptr_t(l.self))
	return l
}

// hold is for one more user; there may be no logger.
func (l *logger) hold() *logger {
	if l != nil {
		l.users.Add(1)
	}
	return l
}

func (l *logger) release() {
	if l != nil && l.users.Add(-1) == 0 {
		l.self.Delete()
	}
}
