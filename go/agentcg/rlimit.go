package agentcg

// #include <agentcg.h>
// #include <sys/resource.h>
//
// static struct rlimit nofile;
//
// // Before the Go runtime is there.
// __attribute__((constructor)) static void look(void)
// {
// 	getrlimit(RLIMIT_NOFILE, &nofile);
// }
//
// static struct rlimit nofile_at_start(void)
// {
// 	return nofile;
// }
import "C"

import (
	"syscall"
	"unsafe"
)

var nofileAtStart = uint64(C.nofile_at_start().rlim_cur)

// rlimits are those that are given. Go raises the soft limit of open files for itself; programs that
// are not ready for that many get the limit that Go was given, as with os/exec.
func rlimits(a *arena, given map[int]syscall.Rlimit) (*C.agentcg_rlimit_t, C.size_t) {
	list := make([]C.agentcg_rlimit_t, 0, len(given)+1)
	add := func(resource int, soft, hard uint64) {
		list = append(list, C.agentcg_rlimit_t{
			resource: C.uint32_t(resource), soft: C.uint64_t(soft), hard: C.uint64_t(hard),
		})
	}
	for resource, limit := range given {
		add(resource, limit.Cur, limit.Max)
	}
	var now syscall.Rlimit
	_, decided := given[syscall.RLIMIT_NOFILE]
	if !decided && syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now) == nil && now.Cur == now.Max && nofileAtStart < now.Cur {
		add(syscall.RLIMIT_NOFILE, nofileAtStart, now.Max)
	}
	if len(list) == 0 {
		return nil, 0
	}
	block := (*C.agentcg_rlimit_t)(a.alloc(uintptr(len(list)) * unsafe.Sizeof(list[0])))
	copy(unsafe.Slice(block, len(list)), list)
	return block, C.size_t(len(list))
}
