package agentcg

// #include <agentcg.h>
import "C"

// Capability is one thing that the kernel and our privileges allow, or not.
type Capability struct {
	Name      string `json:"name"` // stable: memory_controller, sched_ext, ...
	Supported bool   `json:"supported"`
	Detail    string `json:"detail"` // what was found, or why it is not supported
	Fix       string `json:"fix"`    // how to get it
}

// Backends says which mechanism would be used for each part.
type Backends struct {
	Scheduler string `json:"scheduler"` // sched_ext or kernel
	Memory    string `json:"memory"`    // memcg_bpf_ops, cgroup, or "" when memory cannot be protected
	Events    bool   `json:"events"`
}

// Capabilities is everything that was probed.
type Capabilities struct {
	Kernel       string       `json:"kernel"`
	Machine      string       `json:"machine"`
	Capabilities []Capability `json:"capabilities"`
	Backends     Backends     `json:"backends"`
}

// Probe finds out what this kernel and our privileges allow, by trying; it takes some ms, changes
// nothing and needs no privileges.
func Probe() (*Capabilities, error) {
	var text *C.char
	if err := check(C.agentcg_capabilities_json(&text)); err != nil {
		return nil, err
	}
	found := &Capabilities{}
	return found, decode(text, found)
}

// Get gives one capability by its name, or nil.
func (c *Capabilities) Get(name string) *Capability {
	for i := range c.Capabilities {
		if c.Capabilities[i].Name == name {
			return &c.Capabilities[i]
		}
	}
	return nil
}

// Supports says whether a capability is there and supported.
func (c *Capabilities) Supports(name string) bool {
	found := c.Get(name)
	return found != nil && found.Supported
}
