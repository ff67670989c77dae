package agentcg

// #include <agentcg.h>
import "C"

import (
	"encoding/json"
	"strings"
	"syscall"
	"unsafe"
)

// Event is something that a process did, or a loss of such reports: *Exec, *Exit, *Fork, *FileOpen,
// *BashReadline, *OOMKill, *Dropped, or *Unknown for what came after this version of the package.
type Event interface {
	isEvent()
}

// Origin is what every event says of the process it is about.
type Origin struct {
	Timestamp uint64 // ns since boot, suspend included (CLOCK_BOOTTIME)
	Pid       int32
	Ppid      int32
	Comm      string
	UID       uint32
	CgroupID  uint64
	Cgroup    string // "" when the cgroup is older than the stream and gone
	Session   string
	ToolCall  string
}

// Exec: a program was executed.
type Exec struct {
	Origin
	Filename      string
	Argv          []string
	ArgvTruncated bool
}

// FullCommand is the arguments joined by blanks, for reading.
func (e *Exec) FullCommand() string {
	return strings.Join(e.Argv, " ")
}

// Exit: a process ended.
type Exit struct {
	Origin
	ExitCode    int            // -1 when a signal killed it
	Signal      syscall.Signal // that killed it, or 0
	CoreDumped  bool
	DurationMs  uint64
	CPUUserUs   uint64
	CPUSystemUs uint64
	MemoryPeak  uint64
	ReadBytes   uint64
	WriteBytes  uint64
	OOMKilled   bool
}

// Fork: a process forked; the origin is the parent.
type Fork struct {
	Origin
	ChildPid int32
}

// FileOpen: a process opened a file, or tried to.
type FileOpen struct {
	Origin
	Filepath string // symbolic links followed; as given where the open failed or it is over 255 bytes
	Flags    uint32
	Result   int32  // the file descriptor, or minus the errno
	Count    uint64 // how many opens this event stands for
}

// BashReadline: a line was entered in an interactive bash.
type BashReadline struct {
	Origin
	Command string // at most 1023 bytes
}

// OOMKill: the OOM killer chose a process; the origin is the victim.
type OOMKill struct {
	Origin
	LimitCgroup   string // whose memory.max was reached; "": the machine's memory was
	LimitCgroupID uint64 // 0: the machine's memory was
	LimitBytes    uint64 // that memory.max; 0: not known
}

// Dropped: events were lost.
type Dropped struct {
	Count  uint64
	Reason string // ring_full, rate_limited, read_fault, map_full or recursion
}

// Unknown is an event of a kind that came after this version of the package.
type Unknown struct {
	Kind string
	JSON json.RawMessage
}

func (*Exec) isEvent()         {}
func (*Exit) isEvent()         {}
func (*Fork) isEvent()         {}
func (*FileOpen) isEvent()     {}
func (*BashReadline) isEvent() {}
func (*OOMKill) isEvent()      {}
func (*Dropped) isEvent()      {}
func (*Unknown) isEvent()      {}

// eventOf copies an event of the library; nil for a kind that came after this version.
func eventOf(c *C.agentcg_event_t) Event {
	switch c.kind {
	case C.AGENTCG_EVENT_EXEC:
		argv := make([]string, int(c.argc))
		for i, arg := range unsafe.Slice(c.argv, len(argv)) {
			argv[i] = C.GoString(arg)
		}
		return &Exec{
			Origin:        originOf(c),
			Filename:      C.GoString(c.filename),
			Argv:          argv,
			ArgvTruncated: bool(c.argv_truncated),
		}
	case C.AGENTCG_EVENT_EXIT:
		return &Exit{
			Origin:      originOf(c),
			ExitCode:    int(c.exit_code),
			Signal:      syscall.Signal(c.signal),
			CoreDumped:  bool(c.core_dumped),
			DurationMs:  uint64(c.duration_ms),
			CPUUserUs:   uint64(c.cpu_user_us),
			CPUSystemUs: uint64(c.cpu_system_us),
			MemoryPeak:  uint64(c.memory_peak_bytes),
			ReadBytes:   uint64(c.read_bytes),
			WriteBytes:  uint64(c.write_bytes),
			OOMKilled:   bool(c.oom_killed),
		}
	case C.AGENTCG_EVENT_FORK:
		return &Fork{Origin: originOf(c), ChildPid: int32(c.child_pid)}
	case C.AGENTCG_EVENT_FILE_OPEN:
		return &FileOpen{
			Origin:   originOf(c),
			Filepath: C.GoString(c.filepath),
			Flags:    uint32(c.flags),
			Result:   int32(c.result),
			Count:    uint64(c.count),
		}
	case C.AGENTCG_EVENT_BASH_READLINE:
		return &BashReadline{Origin: originOf(c), Command: C.GoString(c.command)}
	case C.AGENTCG_EVENT_OOM_KILL:
		kill := &OOMKill{
			Origin:        originOf(c),
			LimitCgroup:   C.GoString(c.limit_cgroup),
			LimitCgroupID: uint64(c.limit_cgroup_id),
		}
		if c.limit_bytes != C.AGENTCG_UNSET {
			kill.LimitBytes = uint64(c.limit_bytes)
		}
		return kill
	case C.AGENTCG_EVENT_DROPPED:
		return &Dropped{Count: uint64(c.count), Reason: C.GoString(c.reason)}
	}
	return nil
}

func originOf(c *C.agentcg_event_t) Origin {
	return Origin{
		Timestamp: uint64(c.timestamp),
		Pid:       int32(c.pid),
		Ppid:      int32(c.ppid),
		Comm:      C.GoString(c.comm),
		UID:       uint32(c.uid),
		CgroupID:  uint64(c.cgroup_id),
		Cgroup:    C.GoString(c.cgroup),
		Session:   C.GoString(c.session),
		ToolCall:  C.GoString(c.tool_call),
	}
}
