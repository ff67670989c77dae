//! The log of a runtime: what it has to say goes to a function of the caller's, and nowhere else.

use std::ffi::{CString, c_char, c_void};
use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// How grave a line of the log is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum agentcg_log_level_t {
    /// Something does not work any more.
    AGENTCG_LOG_ERROR = 1,
    /// Something was not done; the rest goes on.
    AGENTCG_LOG_WARN = 2,
    /// What was done.
    AGENTCG_LOG_INFO = 3,
    /// For those who look for a defect.
    AGENTCG_LOG_DEBUG = 4,
}

/// Takes a line of the log: its `agentcg_log_level_t`, and UTF-8 that is gone when the function
/// returns. It is called in any thread, also at once in several, and must neither call the library
/// nor unwind.
pub type agentcg_log_fn_t =
    Option<unsafe extern "C" fn(data: *mut c_void, level: u32, message: *const c_char)>;

/// Where the messages of a handle go; `None`: nowhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Option<Dispatch>);

impl Log {
    pub(crate) fn new(function: agentcg_log_fn_t, data: *mut c_void, level: u32) -> Self {
        let level = match level {
            1 => Level::ERROR,
            2 => Level::WARN,
            3 => Level::INFO,
            _ => Level::DEBUG,
        };
        Self(function.map(|function| Dispatch::new(Callback { function, data, level })))
    }

    /// Runs a piece of the library; what it logs meanwhile, in this thread and in those that it
    /// starts, goes to the caller's function.
    pub(crate) fn heard<R>(&self, body: impl FnOnce() -> R) -> R {
        match &self.0 {
            Some(dispatch) => tracing::dispatcher::with_default(dispatch, body),
            None => body(),
        }
    }
}

struct Callback {
    function: unsafe extern "C" fn(*mut c_void, u32, *const c_char),
    data: *mut c_void,
    level: Level,
}

// SAFETY: the caller is told that the function is called, with this pointer, in any thread.
unsafe impl Send for Callback {}
// SAFETY: as above.
unsafe impl Sync for Callback {}

impl Subscriber for Callback {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let text = CString::new(line.0.replace('\0', "\\0")).unwrap_or_default();
        let level = match *event.metadata().level() {
            Level::ERROR => agentcg_log_level_t::AGENTCG_LOG_ERROR,
            Level::WARN => agentcg_log_level_t::AGENTCG_LOG_WARN,
            Level::INFO => agentcg_log_level_t::AGENTCG_LOG_INFO,
            _ => agentcg_log_level_t::AGENTCG_LOG_DEBUG,
        };
        // SAFETY: the caller's function and pointer, which live as long as the runtime and what it
        // gave out.
        unsafe { (self.function)(self.data, level as u32, text.as_ptr()) };
    }

    // The library has no spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The message, and what comes with it as `name=value`.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;
    use std::sync::Mutex;

    unsafe extern "C" fn keep(data: *mut c_void, level: u32, message: *const c_char) {
        // SAFETY: the test's list, and a string of the library.
        let (kept, text) = unsafe {
            (&*data.cast::<Mutex<Vec<(u32, String)>>>(), CStr::from_ptr(message).to_string_lossy())
        };
        kept.lock().unwrap().push((level, text.into_owned()));
    }

    #[test]
    fn lines_go_to_the_function_while_it_listens() {
        let kept = Mutex::new(Vec::<(u32, String)>::new());
        let log = Log::new(Some(keep), (&raw const kept).cast_mut().cast(), 2);
        tracing::error!("before");
        log.heard(|| {
            tracing::warn!(n = 3, "a{}b", '\0');
            tracing::info!("not grave enough");
        });
        Log::default().heard(|| tracing::error!("to nobody"));
        assert_eq!(*kept.lock().unwrap(), [(2, "a\\0b n=3".to_owned())]);
    }
}
