package agentcg

// #include <agentcg.h>
import "C"

import "time"

// SessionView is a session seen from outside.
type SessionView struct {
	Name       string     `json:"name"`
	Path       string     `json:"path"`
	Frozen     bool       `json:"frozen"`
	Processes  uint32     `json:"processes"`  // those of the calls included
	Background []int32    `json:"background"` // what calls have left running, as asked for
	Usage      *Usage     `json:"usage"`
	Calls      []CallView `json:"calls"` // the longest-running first
}

// CallView is a tool call seen from outside.
type CallView struct {
	Name       string `json:"name"`
	Session    string `json:"session"`
	Path       string `json:"path"`
	Command    string `json:"command"`     // shortened; "" when it is not known
	Owner      int    `json:"owner"`       // the process that started it, or 0
	OwnerAlive bool   `json:"owner_alive"` // else the next runtime on the root removes it
	StartedMs  int64  `json:"started_ms"`  // since 1970, or 0
	Frozen     bool   `json:"frozen"`
	Processes  uint32 `json:"processes"`
	Usage      *Usage `json:"usage"`
}

// Started is when it was started; the zero time when that is not known.
func (c *CallView) Started() time.Time {
	if c.StartedMs == 0 {
		return time.Time{}
	}
	return time.UnixMilli(c.StartedMs)
}

// Inspect looks at the sessions below a runtime's root, whoever made them; none when there is no such
// cgroup. It needs no Runtime and changes nothing; what it says may be over a moment later.
func Inspect(root string) ([]SessionView, error) {
	var a arena
	defer a.free()
	croot := a.string(root)
	if a.err != nil {
		return nil, a.err
	}
	var text *C.char
	if err := check(C.agentcg_inspect_json(croot, &text)); err != nil {
		return nil, err
	}
	var found []SessionView
	return found, decode(text, &found)
}
