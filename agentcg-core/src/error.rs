//! One error type for the whole library.
//!
//! | part | what it says |
//! |---|---|
//! | [`Error::kind`] | the class of failure, for programs to match on |
//! | [`Error::path`] | the kernel file, cgroup or program it is about |
//! | [`Error::errno`] | what the kernel answered, where it was asked |
//! | [`Error::help`] | the way out, where there is one |

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The class of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, size, path or option is not valid; nothing was changed.
    InvalidInput,
    /// The cgroup, file or process does not exist (any more): `ENOENT`, `ESRCH`, `ENODEV`.
    NotFound,
    /// It exists already: `EEXIST`.
    AlreadyExists,
    /// Our privileges do not allow it: `EPERM`, `EACCES`, `EROFS`.
    PermissionDenied,
    /// In use by another process, or still populated: `EBUSY`.
    Busy,
    /// This kernel, or its configuration, cannot do it.
    Unsupported,
    /// It did not happen within the given time.
    TimedOut,
    /// Any other failure that the kernel reported.
    Os,
    /// A BPF object could not be opened, loaded or attached.
    Bpf,
}

/// What failed, on which object, what the kernel said and what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    kind: ErrorKind,
    what: Cow<'static, str>,
    path: Option<PathBuf>,
    errno: Option<i32>,
    detail: Option<String>,
    help: Option<Cow<'static, str>>,
}

impl std::fmt::Display for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)?;
        if let Some(path) = &self.path {
            write!(f, " {}", path.display())?;
        }
        if let Some(errno) = self.errno {
            write!(f, ": {}", io::Error::from_raw_os_error(errno))?;
        }
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        // `{:#}` leaves the help out, for those who show it in a place of its own.
        match &self.help {
            Some(help) if !f.alternate() => write!(f, "; {help}"),
            _ => Ok(()),
        }
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            what: what.into(),
            path: None,
            errno: None,
            detail: None,
            help: None,
        }))
    }

    /// A failed system call: `what` names the action ("open", "write max to"), `path` its object.
    pub(crate) fn os(
        what: impl Into<Cow<'static, str>>,
        path: impl AsRef<Path>,
        errno: impl Into<io::Error>,
    ) -> Self {
        let error = errno.into();
        let errno = error.raw_os_error();
        let kind = match errno.map(rustix::io::Errno::from_raw_os_error) {
            Some(e) => kind_of(e),
            None => ErrorKind::Os,
        };
        let mut new = Self::new(kind, what).at(path);
        match errno {
            Some(e) => new.0.errno = Some(e),
            None => new.0.detail = Some(error.to_string()),
        }
        new
    }

    /// A value that is not valid: `invalid("size", "12Q", "expected bytes or a number with K, M or G")`.
    pub(crate) fn invalid(what: &str, value: impl std::fmt::Debug, why: impl AsRef<str>) -> Self {
        Self::new(ErrorKind::InvalidInput, format!("invalid {what} {value:?}: {}", why.as_ref()))
    }

    /// Something this kernel cannot do; `help` says how to get it.
    pub(crate) fn unsupported(
        what: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(ErrorKind::Unsupported, what).or_help(help)
    }

    pub(crate) fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_path_buf());
        self
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    pub(crate) fn or_help(mut self, help: impl Into<Cow<'static, str>>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    /// The action that failed, as it was named when the error was made.
    pub(crate) fn what(&self) -> &str {
        &self.0.what
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The kernel file, cgroup or program that the failure is about.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The kernel's errno, where the kernel was asked.
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// All of it but the help.
    pub fn message(&self) -> String {
        format!("{:#}", self.0)
    }

    /// What can be done about it, where something can.
    pub fn help(&self) -> Option<&str> {
        self.0.help.as_deref()
    }
}

fn kind_of(errno: rustix::io::Errno) -> ErrorKind {
    use rustix::io::Errno as E;
    match errno {
        E::NOENT | E::SRCH | E::NODEV => ErrorKind::NotFound,
        E::EXIST => ErrorKind::AlreadyExists,
        E::PERM | E::ACCESS | E::ROFS => ErrorKind::PermissionDenied,
        E::BUSY | E::AGAIN => ErrorKind::Busy,
        E::OPNOTSUPP | E::NOSYS => ErrorKind::Unsupported,
        E::TIMEDOUT => ErrorKind::TimedOut,
        _ => ErrorKind::Os,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_why_and_the_way_out() {
        let e = Error::os("remove cgroup", "/sys/fs/cgroup/a", rustix::io::Errno::BUSY)
            .or_help("kill its processes first");
        assert_eq!(e.kind(), ErrorKind::Busy);
        assert_eq!(e.path(), Some(Path::new("/sys/fs/cgroup/a")));
        assert_eq!(e.errno(), Some(16));
        assert_eq!(e.to_string(), format!("{}; {}", e.message(), e.help().unwrap()));
        assert_eq!(
            e.to_string(),
            "remove cgroup /sys/fs/cgroup/a: Device or resource busy (os error 16); kill its processes first"
        );
    }
}
