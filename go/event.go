package agentcg

import "encoding/json"

// Event is something that a process did, or a loss of such reports: *Exec, *Exit, *Fork, *FileOpen,
// *BashReadline, *OOMKill, *Dropped, or *Unknown for what came after this version of the package.
type Event interface {
	isEvent()
}

// Origin is what every event says of the process it is about.
type Origin struct {
	Timestamp uint64 `json:"timestamp"` // ns since boot, suspend included (CLOCK_BOOTTIME)
	Pid       int32  `json:"pid"`
	Ppid      int32  `json:"ppid"`
	Comm      string `json:"comm"`
	UID       uint32 `json:"uid"`
	CgroupID  uint64 `json:"cgroup_id"`
	Cgroup    string `json:"cgroup"` // "" when the cgroup is older than the stream and gone
	Session   string `json:"session"`
	ToolCall  string `json:"tool_call"`
}

// Exec: a program was executed.
type Exec struct {
	Origin
	Filename      string   `json:"filename"`
	Argv          []string `json:"argv"`
	FullCommand   string   `json:"full_command"`
	ArgvTruncated bool     `json:"argv_truncated"`
}

// Exit: a process ended.
type Exit struct {
	Origin
	ExitCode    *int32 `json:"exit_code"` // nil when a signal killed it
	Signal      *int32 `json:"signal"`    // nil when it exited
	CoreDumped  bool   `json:"core_dumped"`
	DurationMs  uint64 `json:"duration_ms"`
	CPUUserUs   uint64 `json:"cpu_user_us"`
	CPUSystemUs uint64 `json:"cpu_system_us"`
	MemoryPeak  uint64 `json:"memory_peak_bytes"`
	ReadBytes   uint64 `json:"read_bytes"`
	WriteBytes  uint64 `json:"write_bytes"`
	OOMKilled   bool   `json:"oom_killed"`
}

// Fork: a process forked; the origin is the parent.
type Fork struct {
	Origin
	ChildPid int32 `json:"child_pid"`
}

// FileOpen: a process opened a file, or tried to.
type FileOpen struct {
	Origin
	Filepath string `json:"filepath"` // symbolic links followed; as given where the open failed or it is over 255 bytes
	Flags    uint32 `json:"flags"`
	Result   int32  `json:"result"` // the file descriptor, or minus the errno
	Count    uint64 `json:"count"`  // how many opens this event stands for
}

// BashReadline: a line was entered in an interactive bash.
type BashReadline struct {
	Origin
	Command string `json:"command"` // at most 1023 bytes
}

// OOMKill: the OOM killer chose a process; the origin is the victim.
type OOMKill struct {
	Origin
	LimitCgroup   string  `json:"limit_cgroup"`    // whose memory.max was reached; "": the machine's memory was
	LimitCgroupID *uint64 `json:"limit_cgroup_id"` // nil: the machine's memory was
	LimitBytes    *uint64 `json:"limit_bytes"`     // that memory.max
}

// Dropped: events were lost.
type Dropped struct {
	Count  uint64 `json:"count"`
	Reason string `json:"reason"` // ring_full, rate_limited, read_fault, map_full or recursion
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

// parseEvent ignores fields that it does not know.
func parseEvent(line []byte) (Event, error) {
	var kind struct {
		Event string `json:"event"`
	}
	if err := json.Unmarshal(line, &kind); err != nil {
		return nil, err
	}
	var event Event
	switch kind.Event {
	case "EXEC":
		event = &Exec{}
	case "EXIT":
		event = &Exit{}
	case "FORK":
		event = &Fork{}
	case "FILE_OPEN":
		event = &FileOpen{}
	case "BASH_READLINE":
		event = &BashReadline{}
	case "OOM_KILL":
		event = &OOMKill{}
	case "DROPPED":
		event = &Dropped{}
	default:
		return &Unknown{Kind: kind.Event, JSON: line}, nil
	}
	return event, json.Unmarshal(line, event)
}
