//! Extended attributes of files, and of links themselves: xattr(7).

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

/// What the list of a file's attributes, or a value, can have (XATTR_LIST_MAX, XATTR_SIZE_MAX).
const MAX: usize = 64 << 10;

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// All attributes: names and values. None where the file system has none.
pub fn all(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let c_path = c_path(path)?;
    let mut list = vec![0u8; MAX];
    // SAFETY: the path is a string that ends, and the list has the length that is said.
    let length = unsafe { libc::llistxattr(c_path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    let length = match Errno::result(length) {
        Ok(length) => usize::try_from(length).unwrap_or_default(),
        Err(Errno::ENOTSUP) => 0,
        Err(err) => return Err(err.into()),
    };
    let mut attributes = Vec::new();
    for name in list.get(..length).unwrap_or_default().split(|&byte| byte == 0) {
        if let (false, Ok(name)) = (name.is_empty(), std::str::from_utf8(name))
            && let Some(value) = value(&c_path, name)?
        {
            attributes.push((name.to_owned(), value));
        }
    }
    Ok(attributes)
}

/// The value of an attribute that may have gone since it was listed.
fn value(path: &CString, name: &str) -> io::Result<Option<Vec<u8>>> {
    let name = CString::new(name).map_err(io::Error::other)?;
    let mut value = vec![0u8; MAX];
    let (room, length) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: both strings end, and the value has the length that is said.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), room, length) };
    match Errno::result(length) {
        Ok(length) => {
            value.truncate(usize::try_from(length).unwrap_or_default());
            Ok(Some(value))
        }
        Err(Errno::ENODATA | Errno::ENOTSUP) => Ok(None),
        Err(err) => Err(err.into()),
    }
}

/// Sets an attribute.
pub fn set(path: &Path, name: &[u8], value: &[u8]) -> io::Result<()> {
    let (path, name) = (c_path(path)?, CString::new(name).map_err(io::Error::other)?);
    let (bytes, length) = (value.as_ptr().cast(), value.len());
    // SAFETY: both strings end, and the value has the length that is said.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), bytes, length, 0) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}
