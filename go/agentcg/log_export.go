package agentcg

// #include <stdint.h>
import "C"

import "runtime/cgo"

// agentcgGoLog is called by the library, through log_line: a file that exports a function may not
// define another in C.
//
//export agentcgGoLog
func agentcgGoLog(self C.uintptr_t, level C.uint32_t, message *C.char) {
	l := cgo.Handle(self).Value().(*logger)
	l.function(LogLevel(level), C.GoString(message))
}
