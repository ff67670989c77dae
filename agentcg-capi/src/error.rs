//! Errors as C has them, and the boundary between the languages.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use agentcg_core::ErrorKind;

use crate::args;
use crate::log::Log;

/// The class of a failure. The values never change; later versions may add some.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum agentcg_error_code_t {
    /// No error: the code of NULL.
    AGENTCG_OK = 0,
    /// A name, size, path, option or pointer is not valid; nothing was changed.
    AGENTCG_ERROR_INVALID_INPUT = 1,
    /// The cgroup, file or process does not exist (any more).
    AGENTCG_ERROR_NOT_FOUND = 2,
    /// It exists already.
    AGENTCG_ERROR_ALREADY_EXISTS = 3,
    /// Our privileges do not allow it.
    AGENTCG_ERROR_PERMISSION_DENIED = 4,
    /// In use by another process, or still populated.
    AGENTCG_ERROR_BUSY = 5,
    /// This kernel, or its configuration, cannot do it; the message says how to get it.
    AGENTCG_ERROR_UNSUPPORTED = 6,
    /// It did not happen within the given time.
    AGENTCG_ERROR_TIMED_OUT = 7,
    /// Any other failure that the kernel reported.
    AGENTCG_ERROR_OS = 8,
    /// A BPF object could not be opened, loaded or attached.
    AGENTCG_ERROR_BPF = 9,
    /// A defect of agentcg.
    AGENTCG_ERROR_INTERNAL = 10,
}

use agentcg_error_code_t as Code;

/// What failed, on which object, what the kernel said and what can be done about it.
///
/// A function that can fail returns one, owned by the caller and freed with `agentcg_error_free`, or
/// NULL for success. It never changes: any number of threads may read it.
#[derive(Debug)]
pub struct agentcg_error_t {
    code: Code,
    errno: i32,
    message: CString,
    path: Option<CString>,
    help: Option<CString>,
}

impl agentcg_error_t {
    #[cfg(test)]
    pub(crate) fn code(&self) -> Code {
        self.code
    }

    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        // A path in a message may contain anything but NUL; a name that was refused, even that.
        let text = message.into().replace('\0', "\\0");
        let message = CString::new(text).unwrap_or_default();
        Self { code, errno: 0, message, path: None, help: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::AGENTCG_ERROR_INVALID_INPUT, message)
    }

    /// A descriptor of the caller's that cannot be used.
    pub(crate) fn descriptor(fd: i32, name: &str, e: &io::Error) -> Self {
        let errno = e.raw_os_error().unwrap_or(0);
        let code = match errno {
            libc::EBADF => Code::AGENTCG_ERROR_INVALID_INPUT,
            _ => Code::AGENTCG_ERROR_OS,
        };
        Self { errno, ..Self::new(code, format!("duplicate descriptor {fd} of {name}: {e}")) }
    }
}

impl From<agentcg_core::Error> for agentcg_error_t {
    fn from(e: agentcg_core::Error) -> Self {
        let code = match e.kind() {
            ErrorKind::InvalidInput => Code::AGENTCG_ERROR_INVALID_INPUT,
            ErrorKind::NotFound => Code::AGENTCG_ERROR_NOT_FOUND,
            ErrorKind::AlreadyExists => Code::AGENTCG_ERROR_ALREADY_EXISTS,
            ErrorKind::PermissionDenied => Code::AGENTCG_ERROR_PERMISSION_DENIED,
            ErrorKind::Busy => Code::AGENTCG_ERROR_BUSY,
            ErrorKind::Unsupported => Code::AGENTCG_ERROR_UNSUPPORTED,
            ErrorKind::TimedOut => Code::AGENTCG_ERROR_TIMED_OUT,
            ErrorKind::Os => Code::AGENTCG_ERROR_OS,
            ErrorKind::Bpf => Code::AGENTCG_ERROR_BPF,
            _ => Code::AGENTCG_ERROR_INTERNAL,
        };
        Self {
            errno: e.errno().unwrap_or(0),
            path: e.path().map(crate::args::c_string),
            help: e.help().map(crate::args::c_string),
            ..Self::new(code, e.to_string())
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, agentcg_error_t>;

/// Runs the body of a function that C calls: an error becomes one that C owns, and so does a panic.
pub(crate) fn guard(body: impl FnOnce() -> Result<()>) -> *mut agentcg_error_t {
    // Unwind safety: a handle in which something panicked stays usable as far as Rust's own locks
    // (parking_lot does not poison) make it; the caller is told.
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Err(agentcg_error_t::new(
            Code::AGENTCG_ERROR_INTERNAL,
            format!("a defect of agentcg, please report it: {text}"),
        ))
    });
    match result {
        Ok(()) => std::ptr::null_mut(),
        Err(e) => Box::into_raw(Box::new(e)),
    }
}

/// A handle with a log of its own.
pub(crate) trait Logged {
    fn log(&self) -> &Log;
}

/// Runs a body with a handle, and its log.
///
/// # Safety
/// `handle` is NULL or not freed yet.
pub(crate) unsafe fn with<H: Logged>(
    handle: *const H,
    name: &str,
    body: impl FnOnce(&H) -> Result<()>,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: required of the caller.
        let handle = unsafe { args::handle(handle, name) }?;
        handle.log().heard(|| body(handle))
    })
}

/// The same for a body that makes another handle, which goes to `out`; `None`: NULL.
///
/// # Safety
/// As [`with`], and `out` is NULL or may be written to.
pub(crate) unsafe fn make<H: Logged, T, M: Into<Option<T>>>(
    from: *const H,
    name: &str,
    out: *mut *mut T,
    body: impl FnOnce(&H) -> Result<M>,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: required of the caller.
        let out = unsafe { args::out(out, "out") }?;
        // SAFETY: required of the caller.
        let from = unsafe { args::handle(from, name) }?;
        if let Some(made) = from.log().heard(|| body(from))?.into() {
            *out = Box::into_raw(Box::new(made));
        }
        Ok(())
    })
}

/// The same for a body that has a text to give, which is freed with `agentcg_string_free`.
///
/// # Safety
/// As [`make`].
pub(crate) unsafe fn give_text<H: Logged, T: Into<Option<String>>>(
    of: *const H,
    name: &str,
    out: *mut *mut c_char,
    body: impl FnOnce(&H) -> Result<T>,
) -> *mut agentcg_error_t {
    guard(|| {
        // SAFETY: required of the caller.
        let out = unsafe { args::out(out, "json_out") }?;
        // SAFETY: required of the caller.
        let of = unsafe { args::handle(of, name) }?;
        if let Some(text) = of.log().heard(|| body(of))?.into() {
            *out = args::string(text)?;
        }
        Ok(())
    })
}

/// Frees a handle; what there is to say about it goes to its log.
///
/// # Safety
/// As [`free`].
pub(crate) unsafe fn free_logged<T: Logged>(handle: *mut T) {
    // SAFETY: required of the caller.
    let log = unsafe { handle.as_ref() }.map(|h| h.log().clone()).unwrap_or_default();
    // SAFETY: as above.
    log.heard(|| unsafe { free(handle) });
}

/// Frees what has nothing to say about it.
///
/// # Safety
/// `handle` is NULL or came from [`Box::into_raw`] and is not used any more.
pub(crate) unsafe fn free<T>(handle: *mut T) {
    if handle.is_null() {
        return;
    }
    // SAFETY: required of the caller.
    let handle = unsafe { Box::from_raw(handle) };
    // There is nobody to tell of a panic, but it must not unwind into C.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(handle)));
}

/// The class of an error; `AGENTCG_OK` for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_error_code(error: *const agentcg_error_t) -> agentcg_error_code_t {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    unsafe { error.as_ref() }.map_or(Code::AGENTCG_OK, |e| e.code)
}

/// The kernel's errno; 0 when the kernel was not asked, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_error_errno(error: *const agentcg_error_t) -> i32 {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    unsafe { error.as_ref() }.map_or(0, |e| e.errno)
}

/// What happened, where, and the way out where there is one: one line of UTF-8. It belongs to the
/// error and lives as long as that. Empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_error_message(error: *const agentcg_error_t) -> *const c_char {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    let message: &CStr = unsafe { error.as_ref() }.map_or(c"", |e| &e.message);
    message.as_ptr()
}

/// The kernel file, cgroup or program that the failure is about. It belongs to the error and lives
/// as long as that. NULL where there is none, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_error_path(error: *const agentcg_error_t) -> *const c_char {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    let error = unsafe { error.as_ref() };
    error.and_then(|e| e.path.as_ref()).map_or(std::ptr::null(), |p| p.as_ptr())
}

/// The way out, which is part of the message too. It belongs to the error and lives as long as that.
/// NULL where there is none, and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_error_help(error: *const agentcg_error_t) -> *const c_char {
    // SAFETY: the caller passes NULL or an error that is not freed yet.
    let error = unsafe { error.as_ref() };
    error.and_then(|e| e.help.as_ref()).map_or(std::ptr::null(), |h| h.as_ptr())
}

/// Frees an error. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn agentcg_error_free(error: *mut agentcg_error_t) {
    // SAFETY: the caller passes NULL or an error that it got, once.
    unsafe { free(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(error: *mut agentcg_error_t) -> agentcg_error_t {
        assert!(!error.is_null());
        // SAFETY: guard has made it.
        *unsafe { Box::from_raw(error) }
    }

    #[test]
    fn a_panic_becomes_an_error() {
        for panics in [|| panic!("broken"), || panic!("{}", "broken")] {
            let error = take(guard(panics));
            assert_eq!(error.code, Code::AGENTCG_ERROR_INTERNAL);
            assert!(error.message.to_str().unwrap().ends_with("it: broken"));
        }
    }

    #[test]
    fn a_panic_while_a_handle_is_freed_stays_inside() {
        struct Breaks;
        impl Drop for Breaks {
            fn drop(&mut self) {
                panic!("broken");
            }
        }
        // SAFETY: it comes from into_raw.
        unsafe { free(Box::into_raw(Box::new(Breaks))) };
    }

    #[test]
    fn a_nul_in_a_message_is_shown() {
        let error = take(guard(|| Err(agentcg_error_t::invalid("a\0b"))));
        assert_eq!(error.message.to_str().unwrap(), "a\\0b");
    }
}
