//! C's pointers and numbers to Rust's types and back.

use std::ffi::{CStr, CString, OsStr, c_char};
use std::mem::size_of;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Result, agentcg_error_t};

fn no_null(name: &str) -> agentcg_error_t {
    agentcg_error_t::invalid(format!("{name} is NULL"))
}

/// The place for a result.
///
/// # Safety
/// `place` is NULL or may be written to.
pub(crate) unsafe fn out<'a, T>(place: *mut *mut T, name: &str) -> Result<&'a mut *mut T> {
    // SAFETY: required of the caller.
    let place = unsafe { place.as_mut() }.ok_or_else(|| no_null(name))?;
    // So that a caller who forgets to look at the error frees nothing twice.
    *place = std::ptr::null_mut();
    Ok(place)
}

/// The place for a number or a descriptor.
///
/// # Safety
/// `place` is NULL or may be written to.
pub(crate) unsafe fn place<'a, T>(place: *mut T, name: &str) -> Result<&'a mut T> {
    // SAFETY: required of the caller.
    unsafe { place.as_mut() }.ok_or_else(|| no_null(name))
}

/// # Safety
/// `handle` is NULL or a handle that is not freed yet.
pub(crate) unsafe fn handle<'a, T>(handle: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: required of the caller.
    unsafe { handle.as_ref() }.ok_or_else(|| no_null(name))
}

/// # Safety
/// `handle` is NULL or a handle that is not freed yet and that nobody else uses meanwhile.
pub(crate) unsafe fn handle_mut<'a, T>(handle: *mut T, name: &str) -> Result<&'a mut T> {
    // SAFETY: required of the caller.
    unsafe { handle.as_mut() }.ok_or_else(|| no_null(name))
}

/// # Safety
/// `path` is NULL or a C string.
pub(crate) unsafe fn path<'a>(path: *const c_char, name: &str) -> Result<&'a Path> {
    if path.is_null() {
        return Err(no_null(name));
    }
    // SAFETY: required of the caller.
    let bytes = unsafe { CStr::from_ptr(path) }.to_bytes();
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

/// # Safety
/// `text` is NULL or a C string.
pub(crate) unsafe fn text<'a>(text: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: the same is required of our caller.
    let bytes = unsafe { path(text, name) }?;
    bytes.to_str().ok_or_else(|| agentcg_error_t::invalid(format!("{name} {bytes:?} is not UTF-8")))
}

/// # Safety
/// `first` points to `len` elements, or `len` is 0.
pub(crate) unsafe fn slice<'a, T>(first: *const T, len: usize, name: &str) -> Result<&'a [T]> {
    match (first.is_null(), len) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(no_null(name)),
        // SAFETY: required of the caller.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(first, len) }),
    }
}

/// # Safety
/// As [`slice`], and each element is NULL or a C string.
pub(crate) unsafe fn paths(
    first: *const *const c_char,
    len: usize,
    name: &str,
) -> Result<Vec<PathBuf>> {
    // SAFETY: required of the caller.
    let list = unsafe { slice(first, len, name) }?;
    list.iter()
        // SAFETY: required of the caller.
        .map(|p| unsafe { path(*p, name) }.map(Path::to_path_buf))
        .collect()
}

/// # Safety
/// As [`paths`].
pub(crate) unsafe fn texts(
    first: *const *const c_char,
    len: usize,
    name: &str,
) -> Result<Vec<String>> {
    // SAFETY: required of the caller.
    let list = unsafe { slice(first, len, name) }?;
    list.iter()
        // SAFETY: required of the caller.
        .map(|t| unsafe { text(*t, name) }.map(str::to_owned))
        .collect()
}

/// A list that ends with NULL; NULL is an empty one.
///
/// # Safety
/// `first` is NULL, or points to C strings and a NULL after them.
pub(crate) unsafe fn list<'a>(first: *const *const c_char) -> Vec<&'a OsStr> {
    let mut list = Vec::new();
    if first.is_null() {
        return list;
    }
    loop {
        // SAFETY: required of the caller; the NULL has not come yet.
        let text = unsafe { first.add(list.len()).read() };
        if text.is_null() {
            return list;
        }
        // SAFETY: required of the caller.
        list.push(OsStr::from_bytes(unsafe { CStr::from_ptr(text) }.to_bytes()));
    }
}

/// A C string of our own; a NUL inside ends it.
pub(crate) fn c_string(text: impl AsRef<OsStr>) -> CString {
    let bytes = text.as_ref().as_bytes();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).unwrap_or_default()
}

/// Copies as much of a result as the caller's struct, of this size, has room for. Where that is
/// larger than ours, for it was compiled with a newer header, the rest is filled.
///
/// # Safety
/// `place` is NULL or `size` bytes may be written to.
pub(crate) unsafe fn give<T: Copy>(value: &T, place: *mut T, size: usize, fill: u8) {
    if place.is_null() {
        return;
    }
    let (from, to) = (std::ptr::from_ref(value).cast::<u8>(), place.cast::<u8>());
    // SAFETY: `size` bytes there, `size_of::<T>()` here.
    unsafe {
        to.write_bytes(fill, size);
        to.copy_from_nonoverlapping(from, size.min(size_of::<T>()));
    }
}

/// A string that the caller frees with `agentcg_string_free`.
pub(crate) fn string(text: impl Into<Vec<u8>>) -> Result<*mut c_char> {
    CString::new(text).map(CString::into_raw).map_err(|e| agentcg_error_t::invalid(e.to_string()))
}

/// A value as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| agentcg_error_t::invalid(e.to_string()))
}
