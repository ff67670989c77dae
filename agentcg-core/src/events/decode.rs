//! Ring buffer records to [`Record`]s: the only code that reads bytes the kernel wrote.

use std::ffi::{OsStr, OsString};
use std::mem::size_of;
use std::os::unix::ffi::OsStrExt;

use super::types::{BashReadline, Comm, Event, Exec, Exit, FileOpen, Fork, OomKill, Origin};
use crate::bpf::process::intf;

/// What a record says.
#[derive(Debug, PartialEq)]
pub(super) enum Record {
    /// Something for the reader; cgroup names are still missing.
    Event(Event),
    /// A cgroup was made: its id, and its path in the hierarchy, beginning with `/`.
    Cgroup(u64, OsString),
}

// The layout that both sides were compiled for.
const _: () = assert!(size_of::<intf::record_header>() == 48);
const _: () = assert!(size_of::<intf::record_exec>() == 64);
const _: () = assert!(size_of::<intf::record_exit>() == 112);
const _: () = assert!(size_of::<intf::record_fork>() == 56);
const _: () = assert!(size_of::<intf::record_file_open>() == 72);
const _: () = assert!(size_of::<intf::record_oom_kill>() == 64);
const _: () = assert!(size_of::<intf::record_text>() == 56);

/// Marks the C structs that any bytes are valid values of.
trait Plain: Copy {}
impl Plain for intf::record_header {}
impl Plain for intf::record_exec {}
impl Plain for intf::record_exit {}
impl Plain for intf::record_fork {}
impl Plain for intf::record_file_open {}
impl Plain for intf::record_oom_kill {}
impl Plain for intf::record_text {}

fn read<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, `read_unaligned` asks for no alignment, and a `Plain` is
    // made of integers, for which every bit pattern is valid.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// `None` for a record that is cut short or of an unknown kind.
pub(super) fn decode(bytes: &[u8], page_size: u64) -> Option<Record> {
    let header: intf::record_header = read(bytes)?;
    let origin = origin(&header);
    let event = match header.kind {
        intf::record_kind_RECORD_EXEC => {
            let r: intf::record_exec = read(bytes)?;
            let data = bytes.get(size_of::<intf::record_exec>()..)?;
            let (path, args) = data.split_at_checked(r.path_area as usize)?;
            Event::Exec(Exec {
                origin,
                filename: os(path.get(..r.path_len as usize)?),
                argv: split_args(args.get(..r.args_len as usize)?),
                argv_truncated: r.args_len < r.args_total,
            })
        }
        intf::record_kind_RECORD_EXIT => {
            let r: intf::record_exit = read(bytes)?;
            let (user, system) = split_cpu_time(r.utime_ns, r.stime_ns, r.runtime_ns);
            let signal = (r.code & 0x7f) as i32;
            Event::Exit(Exit {
                origin,
                exit_code: (signal == 0).then_some((r.code >> 8 & 0xff) as i32),
                signal: (signal != 0).then_some(signal),
                core_dumped: r.code & 0x80 != 0,
                duration_ms: r.duration_ns / 1_000_000,
                cpu_user_us: user / 1000,
                cpu_system_us: system / 1000,
                memory_peak_bytes: r.maxrss_pages.saturating_mul(page_size),
                read_bytes: r.read_bytes,
                write_bytes: r.write_bytes,
                oom_killed: r.oom_killed != 0,
            })
        }
        intf::record_kind_RECORD_FORK => {
            let r: intf::record_fork = read(bytes)?;
            Event::Fork(Fork { origin, child_pid: r.child_pid as i32 })
        }
        intf::record_kind_RECORD_FILE_OPEN => {
            let r: intf::record_file_open = read(bytes)?;
            let path = bytes.get(size_of::<intf::record_file_open>()..)?;
            Event::FileOpen(FileOpen {
                origin,
                filepath: os(path.get(..r.path_len as usize)?),
                flags: r.flags,
                result: r.result,
                count: r.count,
            })
        }
        intf::record_kind_RECORD_BASH_READLINE => {
            Event::BashReadline(BashReadline { origin, command: text(bytes)? })
        }
        intf::record_kind_RECORD_OOM_KILL => {
            let r: intf::record_oom_kill = read(bytes)?;
            let limited = r.limit_cgroup_id != 0;
            Event::OomKill(OomKill {
                origin,
                limit_cgroup: None,
                limit_cgroup_id: limited.then_some(r.limit_cgroup_id),
                limit_bytes: limited.then_some(r.limit_pages.saturating_mul(page_size)),
            })
        }
        intf::record_kind_RECORD_CGROUP => {
            return Some(Record::Cgroup(header.cgroup_id, text(bytes)?));
        }
        _ => return None,
    };
    Some(Record::Event(event))
}

/// The text of a [`intf::record_text`].
fn text(bytes: &[u8]) -> Option<OsString> {
    let r: intf::record_text = read(bytes)?;
    let data = bytes.get(size_of::<intf::record_text>()..)?;
    Some(os(data.get(..r.path_len as usize)?))
}

fn origin(h: &intf::record_header) -> Origin {
    Origin {
        timestamp: h.timestamp,
        pid: h.pid as i32,
        ppid: h.ppid as i32,
        comm: Comm::new(&h.comm.map(|c| c as u8)),
        uid: h.uid,
        cgroup_id: h.cgroup_id,
        cgroup: None,
        session: None,
        tool_call: None,
    }
}

fn os(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}

/// NUL-terminated arguments; the last may be cut.
fn split_args(args: &[u8]) -> Vec<OsString> {
    if args.is_empty() {
        return Vec::new();
    }
    args.strip_suffix(b"\0").unwrap_or(args).split(|b| *b == 0).map(os).collect()
}

/// The kernel counts user and system time in ticks and the sum exactly; getrusage(2) splits the
/// exact sum in the ratio of the ticks, and so do we.
fn split_cpu_time(user: u64, system: u64, exact: u64) -> (u64, u64) {
    let ticks = user.saturating_add(system);
    if exact == 0 {
        return (user, system);
    }
    if ticks == 0 {
        return (exact, 0);
    }
    let system = (exact as u128 * system as u128 / ticks as u128) as u64;
    (exact - system, system)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of<T: Plain>(record: &T) -> Vec<u8> {
        let p = std::ptr::from_ref(record).cast::<u8>();
        // SAFETY: a `Plain` is integers without padding, so all its bytes are initialised.
        unsafe { std::slice::from_raw_parts(p, size_of::<T>()) }.to_vec()
    }

    fn zeroed<T: Plain>() -> T {
        read(&[0; 256]).unwrap()
    }

    fn event(bytes: &[u8]) -> Event {
        match decode(bytes, 4096) {
            Some(Record::Event(event)) => event,
            other => panic!("{other:?}"),
        }
    }

    fn exec(path: &[u8], args: &[u8], total: u32) -> Vec<u8> {
        let mut r: intf::record_exec = zeroed();
        r.h.kind = intf::record_kind_RECORD_EXEC;
        (r.path_area, r.path_len) = (32, path.len() as u32);
        (r.args_len, r.args_total) = (args.len() as u32, total);
        let mut bytes = bytes_of(&r);
        bytes.extend(path);
        bytes.resize(size_of::<intf::record_exec>() + 32, 0);
        bytes.extend(args);
        bytes
    }

    #[test]
    fn any_argument_bytes_give_valid_json() {
        let args = b"a \"b\"\0\0new\nline\0\xff\xfe\0";
        let bytes = exec(b"/bin/\xf0x", args, args.len() as u32);
        let event = event(&bytes);
        let Event::Exec(e) = &event else { panic!("{event:?}") };
        assert_eq!(e.argv.len(), 4);
        assert_eq!(e.argv[1], "");
        assert_eq!(e.argv[3].as_bytes(), b"\xff\xfe");
        assert!(!e.argv_truncated);
        let json: serde_json::Value = serde_json::from_str(&event.to_json()).unwrap();
        assert_eq!(json["event"], "EXEC");
        assert_eq!(json["argv"][2], "new\nline");
        assert_eq!(json["full_command"], "a \"b\"  new\nline \u{fffd}\u{fffd}");
        assert!(json.get("session").is_none());
    }

    #[test]
    fn a_cut_argument_list_says_so() {
        let event = event(&exec(b"/x", b"one\0tw", 100));
        let Event::Exec(e) = event else { panic!() };
        assert_eq!(e.argv, ["one", "tw"]);
        assert!(e.argv_truncated);
    }

    #[test]
    fn exit_tells_signals_from_codes() {
        for (code, want) in [
            (0x0000, (Some(0), None, false)),
            (0x2a00, (Some(42), None, false)),
            (0x0009, (None, Some(9), false)),
            (0x008b, (None, Some(11), true)),
        ] {
            let mut r = intf::record_exit { code, maxrss_pages: 3, ..zeroed() };
            r.h.kind = intf::record_kind_RECORD_EXIT;
            let Event::Exit(e) = event(&bytes_of(&r)) else { panic!() };
            assert_eq!((e.exit_code, e.signal, e.core_dumped), want);
            assert_eq!(e.memory_peak_bytes, 12288);
        }
    }

    #[test]
    fn cpu_time_is_split_in_the_ratio_of_the_ticks() {
        assert_eq!(split_cpu_time(3, 1, 4000), (3000, 1000));
        assert_eq!(split_cpu_time(0, 0, 700), (700, 0));
        assert_eq!(split_cpu_time(8, 4, 0), (8, 4));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(kind in 0u32..9, mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if bytes.len() >= 20 {
                bytes[16..20].copy_from_slice(&kind.to_ne_bytes());
            }
            if let Some(Record::Event(event)) = decode(&bytes, 4096) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&event.to_json()).is_ok());
            }
        }
    }
}
